"""The planner's view of a model: its modules with their parameters and the sizes of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "experts", "embedding", "head", "norm"]


@dataclass(frozen=True)
class Module:
    """A module that owns parameters.

    ``linear`` layers are stored in 4 bits by QLoRA and have adapters. ``experts`` are the fused weights of a mixture;
    they stay in 16 bits without adapters, because bitsandbytes and PEFT find no linear layer there, as do all other
    kinds.
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
    eager: bool = False  # attention weights are materialized (no fused kernel for soft-capped logits)
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

    def linear(self) -> tuple[Module, ...]:
        """Layers that QLoRA stores in 4 bits."""
        return tuple(module for module in self.modules if module.kind == "linear")

    def share(self, *kinds: Kind) -> float:
        """Share of the parameters in modules of these kinds."""
        return sum(module.parameters for module in self.modules if module.kind in kinds) / self.parameters

    @property
    def active_weights(self) -> int:
        """Number of weights that a token is multiplied with, without the head and inactive experts."""
        linear = sum(module.weights for module in self.linear() if not module.name.startswith(VISION))
        return linear + sum(3 * block.hidden * block.intermediate for block in self.blocks if block.experts)


VISION = ("model.vision_tower.", "model.multi_modal_projector.")
"""Name prefixes of the vision modules, which text does not pass through."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the language model, which a multimodal config contains as ``text_config``."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config
