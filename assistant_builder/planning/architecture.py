"""The planner's view of a model: its modules with their parameters and the sizes of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "experts", "embedding", "head", "norm"]


@dataclass(frozen=True)
class Module:
    """A module that owns parameters.

    Attributes:
        name: Path in the model, as in ``named_modules()``.
        kind: ``linear`` layers are stored in 4 bits by QLoRA and have adapters. ``experts`` are the fused weights of a
            mixture; they stay in 16 bits without adapters, because bitsandbytes and PEFT find no linear layer there.
            ``embedding``, ``head`` and ``norm`` stay in 16 bits.
        outputs: Output features; the number of values if the weight is not a matrix.
        inputs: Input features; 1 if the weight is not a matrix.
        bias: Number of values of the bias.
        tied: Whether the weight belongs to another module, where it is counted.
    """

    name: str
    kind: Kind
    outputs: int
    inputs: int = 1
    bias: int = 0
    tied: bool = False

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
    """Sizes of one decoder block in features; they determine its activations.

    Attributes:
        hidden: Width of the residual stream.
        attention: Heads times head size.
        key_value: Key-value heads times head size.
        heads: Number of query heads.
        intermediate: Width of the feed-forward layer, or of all active experts together.
        norms: Number of norms over the residual stream.
        head_norms: Whether queries and keys are normalized.
        eager: Whether attention weights are materialized (soft-capped logits have no fused kernel).
        experts: Active experts per token; 0 without a mixture.
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
        model_type: ``model_type`` of config.json.
        modules: All modules that own parameters, in order.
        blocks: The decoder blocks.
        vocabulary: Rows of the head.
        context: Maximum input in tokens; 0 if config.json does not contain it.
        known: Whether the counts are closed-form; otherwise they come from the model's code on the meta device.
    """

    model_type: str
    modules: tuple[Module, ...]
    blocks: tuple[Block, ...]
    vocabulary: int
    context: int = 0
    known: bool = True

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
        total = 0
        for module in self.modules:
            if module.kind == "linear" and not module.name.startswith(VISION):
                total += module.weights
        for block in self.blocks:
            total += 3 * block.hidden * block.intermediate if block.experts else 0
        return total


VISION = ("model.vision_tower.", "model.multi_modal_projector.")
"""Name prefixes of the vision modules, which text does not pass through."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the language model, which a multimodal config contains as ``text_config``."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config
