"""What a model consists of, as the planner sees it: every module with its parameters, and the sizes of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "experts", "embedding", "head", "norm"]


@dataclass(frozen=True)
class Module:
    """One module that owns parameters.

    Attributes:
        name: Its path in the model, as in ``named_modules()``.
        kind: ``linear`` is stored in 4 bits by QLoRA and takes an adapter; ``experts`` are the fused expert weights of
            a mixture, which stay 16-bit and take none (bitsandbytes and PEFT see no linear layer there); ``embedding``,
            ``head`` and ``norm`` stay 16-bit in both arms.
        outputs: Features out; of what is no matrix, the number of values.
        inputs: Features in; 1 of what is no matrix.
        bias: Values of the bias.
        tied: Whether the weight is that of another module, which counts it.
    """

    name: str
    kind: Kind
    outputs: int
    inputs: int = 1
    bias: int = 0
    tied: bool = False

    @property
    def weights(self) -> int:
        """Values of the weight, 0 where it is another module's."""
        return 0 if self.tied else self.outputs * self.inputs

    @property
    def parameters(self) -> int:
        """Values of weight and bias."""
        return self.weights + self.bias


@dataclass(frozen=True)
class Block:
    """The sizes that decide what one decoder block keeps for the backward pass, in features.

    Attributes:
        hidden: Width of the residual stream.
        attention: Heads times head size.
        key_value: Key-value heads times head size.
        heads: Query heads.
        intermediate: Width of the feed-forward part that one token passes through, active experts together.
        norms: Norms over the residual stream in the block.
        head_norms: Whether queries and keys are normalised too.
        eager: Whether attention weights are materialised (soft-capped logits have no fused kernel).
        experts: Active experts a token, 0 without a mixture.
    """

    hidden: int
    attention: int
    key_value: int
    heads: int
    intermediate: int
    norms: int = 2
    head_norms: bool = False
    eager: bool = False
    experts: int = 0


@dataclass(frozen=True)
class Architecture:
    """A causal language model without its weights.

    Attributes:
        model_type: As in config.json.
        modules: Every module that owns parameters, in order.
        blocks: One entry for each decoder block.
        vocabulary: Rows of the head.
        context: Longest input in tokens, 0 where the config does not say.
        known: Whether the counts are closed-form; else they come from the model's own code on the meta device.
    """

    model_type: str
    modules: tuple[Module, ...]
    blocks: tuple[Block, ...]
    vocabulary: int
    context: int = 0
    known: bool = True

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(module.parameters for module in self.modules)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.blocks[0].hidden

    def linear(self) -> tuple[Module, ...]:
        """The layers that QLoRA stores in 4 bits."""
        return tuple(module for module in self.modules if module.kind == "linear")

    def share(self, *kinds: Kind) -> float:
        """Share of the parameters that lies in modules of these kinds."""
        return sum(module.parameters for module in self.modules if module.kind in kinds) / self.parameters

    @property
    def active_weights(self) -> int:
        """Weights that one token is multiplied with, the head left out; of a mixture only the active experts'."""
        total = 0
        for module in self.modules:
            if module.kind == "linear" and not module.name.startswith(VISION):
                total += module.weights
        for block in self.blocks:
            total += 3 * block.hidden * block.intermediate if block.experts else 0
        return total


VISION = ("model.vision_tower.", "model.multi_modal_projector.")
"""Where the modules of a vision part lie, which text never passes through."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model, where it is wrapped in one of a model that sees too."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config
