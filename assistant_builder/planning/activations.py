"""What a training step keeps for its backward pass, tensor by tensor, as this trainer's graph saves it.

Frozen weights save no input, so that a layer's own memory is what norms, adapters, attention and the gate need. The
formulas count what ``autograd`` saves in models/layers.py and transformers' decoders:

* a norm keeps its input, in float32 on a GPU;
* an adapter keeps its dropped-out input and A's output; on a CPU layers that share an input keep it once, with the
  places that were dropped, on a GPU each keeps its own and a mask of a byte a value;
* fused attention keeps q, k, v, its output and one float32 a head; attention over short rows on a CPU keeps q, k, v
  and its weights; soft-capped attention keeps its weights too;
* the gate keeps gate, its activation and up;
* the head's loss keeps the supervised logits twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistant_builder.planning.architecture import VISION, Architecture, Block, Module

_QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj")
_GATES = ("gate_proj", "up_proj", "gate_up_proj")
_GROUPS = {name: place for place, names in enumerate((_QKV, _GATES)) for name in names}
"""Layers that share one input."""
_SHORT_ROW = 256
"""Tokens of a row up to which a CPU writes the attention weights down (training.fusing.LONGEST_SHORT_ROW)."""
LOSS_ROWS = {"cpu": 8, "cuda": 512}
"""Rows of logits that the loss turns into float32 at once, by device; ``training.kernels`` computes in chunks of these.
As float32 they stay in a CPU's cache, and take little of a GPU's memory. Three such chunks exist at the same time: the
probabilities of the chunk before, this one's logits, and this one's probabilities."""
_LOSS_COPIES = 3


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        rows: Sequences.
        length: Tokens of each, padding included.
        supervised: Positions that the loss counts, all rows together.
        columns: Positions the head runs over in each row.
        padded: Whether rows differ in length, so that attention needs a mask.
    """

    rows: int
    length: int
    supervised: int
    columns: int
    padded: bool = False

    @property
    def tokens(self) -> int:
        """Positions, padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Arithmetic:
    """How the trainer computes.

    Attributes:
        width: Bytes of a value in the compute dtype.
        device: ``cpu`` or ``cuda``.
        rank: Rank of the adapters.
        dropout: Probability with which adapters drop inputs.
        checkpointing: Whether activations are recomputed.
    """

    width: int
    device: str
    rank: int
    dropout: float
    checkpointing: bool


@dataclass(frozen=True)
class Activations:
    """Bytes at the moment when a step needs most.

    Attributes:
        kept: What the blocks keep for the backward pass; with checkpointing their inputs alone.
        block: What one block adds while it is recomputed or run backwards.
        head: What the last norm, the logits and their gradient take.
        casts: The adapters in the compute dtype.
        dequantized: Frozen weights in the compute dtype: on a CPU with room all of them, less what they replace;
            else the largest, brought to it at use.
    """

    kept: int
    block: int
    head: int
    casts: int
    dequantized: int

    @property
    def total(self) -> int:
        """Head and block take their turns: the larger counts."""
        return self.kept + max(self.block, self.head) + self.casts + self.dequantized


def activations(
    architecture: Architecture, adapted: Sequence[Module], batch: Batch, how: Arithmetic, *, unpacked_bytes: int
) -> Activations:
    """Bytes of one training step.

    Args:
        architecture: The model.
        adapted: The layers with an adapter; none of them for full fine-tuning, which keeps each layer's input instead.
        batch: The micro-batch.
        how: The trainer's arithmetic.
        unpacked_bytes: Frozen weights in the compute dtype beside the stored ones.
    """
    by_block = _by_block(architecture, adapted)
    blocks = [
        block_bytes(block, batch, how) + batch.tokens * adapter_input_bytes(layers, how)
        for block, layers in zip(architecture.blocks, by_block, strict=True)
    ]
    gradients = max(batch.tokens * how.width * (5 * block.intermediate + 4 * block.hidden)
                    for block in architecture.blocks)
    inputs = batch.tokens * how.width * architecture.hidden * len(blocks)
    casts = 0 if how.width == 4 else how.width * how.rank * sum(layer.inputs + layer.outputs for layer in adapted)
    return Activations(
        kept=inputs if how.checkpointing else sum(blocks),
        block=gradients + (max(blocks) if how.checkpointing else 0),
        head=head_bytes(architecture, batch, how),
        casts=casts // len(blocks) if how.checkpointing else casts,
        dequantized=unpacked_bytes,
    )


def block_bytes(block: Block, batch: Batch, how: Arithmetic) -> int:
    """What one block keeps for a micro-batch, its adapters left out."""
    wide, length = how.width, batch.length
    norm = wide if how.device == "cpu" else 4
    norms = norm * (block.norms * block.hidden + block.head_norms * (block.attention + block.key_value))
    if block.eager:  # scores, tanh, float32 softmax, weights
        attention = block.heads * length * (4 + 3 * wide) + wide * (2 * block.attention + 2 * block.key_value)
    elif how.device == "cpu" and length <= _SHORT_ROW:
        attention = wide * (block.attention + 2 * block.key_value + block.heads * length)
    else:
        repeated = block.attention if batch.padded else block.key_value  # a mask rules out grouped queries
        attention = wide * (2 * block.attention + 2 * repeated) + 4 * block.heads
        attention += wide * length if batch.padded else 0
    gate = 3 * wide * block.intermediate
    routed = wide * block.experts * block.hidden  # each expert's output, to be weighed
    return batch.tokens * (norms + attention + gate + routed)


def adapter_input_bytes(layers: Sequence[Module], how: Arithmetic) -> int:
    """What the adapters of one block keep for each token."""
    ranks = how.width * how.rank * len(layers)
    if how.dropout and how.device != "cpu":
        return ranks + (how.width + 1) * sum(layer.inputs for layer in layers)
    shared: dict[object, int] = {}
    for layer in layers:
        name = layer.name.rpartition(".")[2]
        if name != "o_proj" or how.device == "cpu":  # a GPU's attention keeps its output anyway
            shared[_GROUPS.get(name, layer.name)] = layer.inputs
    return ranks + round((how.width + 8 * how.dropout) * sum(shared.values()))  # a dropped place is an int64


def head_bytes(architecture: Architecture, batch: Batch, how: Arithmetic) -> int:
    """What the last norm, the logits and their gradients take at their highest."""
    scored, vocabulary = batch.rows * batch.columns, architecture.vocabulary
    chunk = 4 * _LOSS_COPIES * min(LOSS_ROWS[how.device], batch.supervised) * vocabulary
    logits = 2 * how.width * batch.supervised * vocabulary + chunk
    norm = batch.tokens * (4 + how.width) * architecture.hidden + how.width * scored * architecture.hidden
    return norm + logits


def _by_block(architecture: Architecture, adapted: Sequence[Module]) -> list[list[Module]]:
    """The adapted layers of each decoder block; those of a vision part keep nothing, as no image passes through."""
    found: list[list[Module]] = [[] for _ in architecture.blocks]
    for module in adapted:
        if module.name.startswith(VISION):
            continue
        place = next((int(part) for part in module.name.split(".") if part.isdigit()), None)
        if place is not None and place < len(found):
            found[place].append(module)
    return found
