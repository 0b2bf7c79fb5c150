"""The planner's view of a model, and its closed form for common model families, computed from config.json alone.

Each family is described by its differences from a plain Llama decoder. Default values are those of transformers' config
classes, because published configs omit them. A test compares every family with the model of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from assistant_builder.errors import ModelError
from assistant_builder.i18n import joined, m

Kind = Literal["linear", "experts", "embedding", "head", "norm"]


@dataclass(frozen=True)
class Module:
    """A module that owns parameters.

    ``linear`` layers are stored in 4 bits by QLoRA and have adapters; all other kinds stay in 16 bits. ``experts`` are
    the fused weights of a mixture, in which bitsandbytes and PEFT find no linear layer.
    """

    name: str  # path as in named_modules()
    kind: Kind
    outputs: int  # features; number of values if the weight is not a matrix
    inputs: int = 1  # 1 if the weight is not a matrix
    bias: int = 0  # number of values
    tied: bool = False  # counted in another module

    @property
    def weights(self) -> int:
        """Number of values of the weight; 0 if tied."""
        return 0 if self.tied else self.outputs * self.inputs

    @property
    def parameters(self) -> int:
        """Number of values of weight and bias."""
        return self.weights + self.bias


@dataclass(frozen=True)
class Block:
    """Sizes of one decoder block in features; they determine its activations."""

    hidden: int  # width of the residual stream
    attention: int  # heads times head size
    key_value: int  # key-value heads times head size
    heads: int  # of queries
    intermediate: int  # of the feed-forward layer, or of all active experts together
    norms: int = 2  # over the residual stream
    head_norms: bool = False  # of queries and keys
    eager: bool = (
        False  # attention weights are materialized: no fused kernel for soft-capped logits
    )
    experts: int = 0  # active per token; 0 without a mixture


@dataclass(frozen=True)
class Architecture:
    """A causal language model without its weights."""

    model_type: str
    modules: tuple[Module, ...]
    blocks: tuple[Block, ...]
    vocabulary: int  # rows of the head
    context: int = 0  # maximum input in tokens; 0 if config.json does not contain it
    known: bool = True  # in closed form; otherwise from the model's code on the meta device

    @property
    def parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(module.parameters for module in self.modules)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.blocks[0].hidden

    def linear(self, *, vision: bool = True) -> tuple[Module, ...]:
        """Layers that QLoRA stores in 4 bits, with or without those of a vision tower."""
        linear = (module for module in self.modules if module.kind == "linear")
        return tuple(module for module in linear if vision or not module.name.startswith(VISION))

    def share(self, *kinds: Kind) -> float:
        """Share of the parameters in modules of these kinds."""
        counted = sum(module.parameters for module in self.modules if module.kind in kinds)
        return counted / self.parameters

    @property
    def active_weights(self) -> int:
        """Number of weights that a token is multiplied with, without the head and inactive experts."""
        linear = sum(module.weights for module in self.linear(vision=False))
        return linear + sum(
            3 * each.hidden * each.intermediate for each in self.blocks if each.experts
        )


VISION = ("model.vision_tower.", "model.multi_modal_projector.")
"""Name prefixes of the vision modules, which text does not pass through."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the language model, which a multimodal config contains as ``text_config``."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


# upper bounds beyond those of any model; they keep a hostile config from exhausting memory
MAX_LAYERS, MAX_SIZE = 10_000, 10**9
_SANDWICH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


@dataclass(frozen=True)
class Family:
    """Differences of a family from a plain Llama."""

    defaults: Mapping[str, Any]  # of values that config.json may omit
    bias: Literal["none", "qkv", "config"]  # of q, k and v, or of all if attention_bias is set
    norms: tuple[str, ...] = _SANDWICH[:2]  # over the residual stream
    query_norm: Literal["none", "head", "all"] = "none"  # over each head, or over all together
    fused: bool = False  # q, k, v and gate, up are one projection each
    experts: str = ""  # config key of their number; empty if dense
    eager: bool = False  # attention logits are soft-capped


# defaults by ``model_type``: vocabulary, widths of the model and of its feed-forward layers, layers, heads, key-value
# heads, size of a head (``-``: none), whether the head is tied to the embedding, and which layers have a bias
_TABLE = """
llama       32000  4096 11008 32 32   -   - no   config
mistral     32000  4096 14336 32 32   8   - no   none
qwen2      151936  4096 22016 32 32  32   - no   qkv
qwen3      151936  4096 22016 32 32  32 128 no   config
gemma      256000  3072 24576 28 16  16 256 tied config
gemma2     256000  2304  9216 26  8   4 256 tied config
gemma3_text 262208 2304  9216 26  8   4 256 tied config
phi3        32064  3072  8192 32 32   -   - no   none
olmo2       50304  4096 11008 32 32   -   - no   config
granite     32000  4096 11008 32 32   -   - no   config
smollm3    128256  2048 11008 36 16   4   - tied config
mixtral     32000  4096 14336 32 32   8   - no   none
qwen2_moe  151936  2048  5632 24 16  16   - no   qkv
qwen3_moe  151936  2048  6144 24 32   4   - no   config
"""
_MIXTURES = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "decoder_sparse_step": 1,
    },
    "qwen3_moe": {
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
    },
}
_DIFFERENCES: dict[str, dict[str, Any]] = {
    "qwen3": {"query_norm": "head"},
    "gemma2": {"norms": _SANDWICH, "eager": True},
    "gemma3_text": {"norms": _SANDWICH, "query_norm": "head"},
    "phi3": {"fused": True},
    "olmo2": {"norms": _SANDWICH[1::2], "query_norm": "all"},
    "mixtral": {"experts": "num_local_experts"},
    "qwen2_moe": {"experts": "num_experts"},
    "qwen3_moe": {"experts": "num_experts", "query_norm": "head"},
}


def _family(line: str) -> tuple[str, Family]:
    kind, *values, tied, bias = line.split()
    names = (*_REQUIRED, "num_key_value_heads", "head_dim")
    sizes = {name: int(value) for name, value in zip(names, values, strict=True) if value != "-"}
    defaults = {**sizes, "tie_word_embeddings": tied == "tied", **_MIXTURES.get(kind, {})}
    return kind, Family(defaults, bias=bias, **_DIFFERENCES.get(kind, {}))  # type: ignore[arg-type]


FAMILIES = dict(map(_family, _TABLE.strip().splitlines()))
"""Families by ``model_type``; ``gemma3`` is ``gemma3_text`` with a vision tower."""
# transformers saves some values under another name than models were published with
_OTHER_NAMES = {"num_experts": ("num_local_experts",), "num_local_experts": ("num_experts",)}
_SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 768, "intermediate_size": 3072} | {
    "num_hidden_layers": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}


def is_known(config: Mapping[str, Any]) -> bool:
    """Return whether the counts of a config are available in closed form."""
    if config.get("model_type") != "gemma3":
        return config.get("model_type") in FAMILIES
    vision = _vision_of(config)
    return vision["model_type"] == "siglip_vision_model" and vision.get("vision_use_head") is False


def build(config: Mapping[str, Any]) -> Architecture:
    """Return the modules and blocks of a known family from the content of config.json.

    Raises:
        ModelError: Sizes are missing, not integers, or contradict one another; the message lists all of them.
    """
    kind = str(config["model_type"])
    vision = kind == "gemma3"
    sizes = _Sizes("gemma3_text" if vision else kind, text_part(config))
    tied = config.get("tie_word_embeddings", True) if vision else sizes.get("tie_word_embeddings")
    vocabulary = sizes.numbers["vocab_size"]
    prefix = "model.language_model." if vision else "model."
    modules = list(_siglip(_vision_of(config), sizes.hidden)) if vision else []
    modules.append(Module(f"{prefix}embed_tokens", "embedding", vocabulary, sizes.hidden))
    blocks = []
    for index in range(sizes.numbers["num_hidden_layers"]):
        modules += sizes.block_modules(f"{prefix}layers.{index}.", index)
        blocks.append(sizes.block(index))
    modules.append(Module(f"{prefix}norm", "norm", sizes.hidden))
    modules.append(Module("lm_head", "head", vocabulary, sizes.hidden, tied=bool(tied)))
    context = sizes.config.get("max_position_embeddings")
    context = context if isinstance(context, int) else 0
    return Architecture(kind, tuple(modules), tuple(blocks), vocabulary, context)


@dataclass(frozen=True)
class _Sizes:
    kind: str
    config: Mapping[str, Any]
    numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optional = ("moe_intermediate_size", "shared_expert_intermediate_size")
        names = [*_REQUIRED, *(name for name in optional if name in self.family.defaults)]
        if self.family.experts:
            names += [self.family.experts, "num_experts_per_tok"]
        problems = []

        def check(name: str, value: Any) -> bool:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(
                    m(
                        "{name}={shortened} is not a positive integer",
                        name=name,
                        shortened=_shortened(value),
                    )
                )
            elif value > (MAX_LAYERS if name == "num_hidden_layers" else MAX_SIZE):
                problems.append(
                    m(
                        "{name}={shortened} is more than any model has",
                        name=name,
                        shortened=_shortened(value),
                    )
                )
            else:
                return True
            return False

        self.numbers.update({name: self.get(name) for name in names if check(name, self.get(name))})
        heads, hidden = self.numbers.get("num_attention_heads"), self.numbers.get("hidden_size")
        if heads and hidden and self.get("head_dim") is None and hidden % heads:
            problems.append(
                m(
                    "hidden_size={hidden} is not a multiple of num_attention_heads={heads}",
                    hidden=hidden,
                    heads=heads,
                )
            )
        for name in ("head_dim", "num_key_value_heads"):
            value = self.get(name)
            if value is not None:
                check(name, value)
        key_value = self.get("num_key_value_heads")
        if not problems and heads and key_value and heads % key_value:
            problems.append(
                m(
                    "num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value}",
                    heads=heads,
                    key_value=key_value,
                )
            )
        if problems:
            raise ModelError(
                joined(problems, "; "),
                where=f"config.json ({self.kind})",
                remedy=m("Copy config.json again from its source"),
            )

    @property
    def family(self) -> Family:
        return FAMILIES[self.kind]

    def get(self, name: str) -> Any:
        for key in (name, *_OTHER_NAMES.get(name, ())):
            if key in self.config:
                return self.config[key]
        return self.family.defaults.get(name)

    @property
    def hidden(self) -> int:
        return self.numbers["hidden_size"]

    @property
    def heads(self) -> int:
        return self.numbers["num_attention_heads"]

    @property
    def head_size(self) -> int:
        return int(self.get("head_dim") or self.hidden // self.heads)

    @property
    def attention(self) -> int:
        return self.heads * self.head_size

    @property
    def key_value(self) -> int:
        return int(self.get("num_key_value_heads") or self.heads) * self.head_size

    def is_sparse(self, index: int) -> bool:
        if not self.family.experts:
            return False
        if "decoder_sparse_step" not in self.family.defaults:  # Mixtral: every block
            return True
        if index in (self.config.get("mlp_only_layers") or ()):
            return False
        return (index + 1) % int(self.get("decoder_sparse_step") or 1) == 0

    def block(self, index: int) -> Block:
        wide, experts = self.numbers["intermediate_size"], 0
        if self.is_sparse(index):
            experts = self.numbers["num_experts_per_tok"]
            wide = experts * self.numbers.get("moe_intermediate_size", wide)
        return Block(
            self.hidden,
            self.attention,
            self.key_value,
            self.heads,
            wide,
            norms=len(self.family.norms),
            head_norms=self.family.query_norm != "none",
            eager=self.family.eager and self.config.get("attn_logit_softcapping", 50.0) is not None,
            experts=experts,
        )

    def block_modules(self, prefix: str, index: int) -> Iterator[Module]:
        yield from self._attention_modules(f"{prefix}self_attn.")
        if self.is_sparse(index):
            yield from self._mixture_modules(f"{prefix}mlp.")
        else:
            yield from self._dense_modules(f"{prefix}mlp.", self.numbers["intermediate_size"])
        for name in self.family.norms:
            yield Module(prefix + name, "norm", self.hidden)

    def _attention_modules(self, prefix: str) -> Iterator[Module]:
        family, hidden, wide, narrow = self.family, self.hidden, self.attention, self.key_value
        everywhere = family.bias == "config" and bool(self.get("attention_bias"))
        inputs = everywhere or (family.bias == "qkv" and bool(self.config.get("qkv_bias", True)))
        if family.fused:
            yield Module(f"{prefix}qkv_proj", "linear", wide + 2 * narrow, hidden)
        else:
            for name, size in (("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)):
                yield Module(prefix + name, "linear", size, hidden, bias=size * inputs)
        yield Module(f"{prefix}o_proj", "linear", hidden, wide, bias=hidden * everywhere)
        if family.query_norm != "none":
            whole = family.query_norm == "all"
            yield Module(f"{prefix}q_norm", "norm", wide if whole else self.head_size)
            yield Module(f"{prefix}k_norm", "norm", narrow if whole else self.head_size)

    def _dense_modules(self, prefix: str, wide: int) -> Iterator[Module]:
        bias = self.kind in ("llama", "granite", "smollm3") and bool(self.config.get("mlp_bias"))
        if self.family.fused:
            yield Module(f"{prefix}gate_up_proj", "linear", 2 * wide, self.hidden)
        else:
            for name in ("gate_proj", "up_proj"):
                yield Module(prefix + name, "linear", wide, self.hidden, bias=wide * bias)
        yield Module(f"{prefix}down_proj", "linear", self.hidden, wide, bias=self.hidden * bias)

    def _mixture_modules(self, prefix: str) -> Iterator[Module]:
        experts = self.numbers[self.family.experts]
        wide = self.numbers.get("moe_intermediate_size", self.numbers["intermediate_size"])
        yield Module(f"{prefix}gate", "experts", experts, self.hidden)
        yield Module(f"{prefix}experts", "experts", experts * 3 * wide, self.hidden)
        shared = self.numbers.get("shared_expert_intermediate_size")
        if shared:
            yield from self._dense_modules(f"{prefix}shared_expert.", shared)
            yield Module(f"{prefix}shared_expert_gate", "linear", 1, self.hidden)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _vision_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    vision = config.get("vision_config") or {}
    if not isinstance(vision, Mapping):
        raise ModelError(
            m("vision_config={shortened} is not a JSON object", shortened=_shortened(vision)),
            remedy=m("Copy config.json again from its source"),
        )
    return {**_SIGLIP, **vision}


def _siglip(vision: Mapping[str, Any], text_hidden: int) -> Iterator[Module]:
    hidden, wide = int(vision["hidden_size"]), int(vision["intermediate_size"])
    patch, image = int(vision["patch_size"]), int(vision["image_size"])
    channels = int(vision["num_channels"])
    tower = "model.vision_tower."
    embeddings = f"{tower}embeddings."
    pixels, patches = channels * patch * patch, (image // patch) ** 2
    yield Module(f"{embeddings}patch_embedding", "embedding", hidden, pixels, bias=hidden)
    yield Module(f"{embeddings}position_embedding", "embedding", patches, hidden)
    for index in range(min(int(vision["num_hidden_layers"]), MAX_LAYERS)):
        layer = f"{tower}encoder.layers.{index}."
        yield Module(f"{layer}layer_norm1", "norm", hidden, bias=hidden)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield Module(f"{layer}self_attn.{name}", "linear", hidden, hidden, bias=hidden)
        yield Module(f"{layer}layer_norm2", "norm", hidden, bias=hidden)
        yield Module(f"{layer}mlp.fc1", "linear", wide, hidden, bias=wide)
        yield Module(f"{layer}mlp.fc2", "linear", hidden, wide, bias=hidden)
    yield Module(f"{tower}post_layernorm", "norm", hidden, bias=hidden)
    yield Module("model.multi_modal_projector", "embedding", hidden, text_hidden)
    yield Module("model.multi_modal_projector.mm_soft_emb_norm", "norm", hidden)
