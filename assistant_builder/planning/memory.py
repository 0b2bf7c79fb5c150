"""Memory of a training: weights, adapters, optimizer states and activations, on one or several devices."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from assistant_builder.arms import ARMS
from assistant_builder.config import ModelConfig, StudyConfig, TrainConfig
from assistant_builder.errors import ResourceError
from assistant_builder.i18n import m, mn
from assistant_builder.planning.architecture import VISION, Architecture, Block, Module
from assistant_builder.planning.hardware import Machine
from assistant_builder.quantization import METHODS, QuantizationMethod

Method = str  # name of an arm
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# smaller tensors have 32-bit states in 8-bit AdamW (bitsandbytes' ``min_8bit_size``)
_MIN_8BIT_VALUES = 4096
_STATE_BLOCK = 256  # values that share a float32 constant in the states of 8-bit AdamW


def base_storage(method: Method, model: ModelConfig) -> QuantizationMethod:
    """Return the quantization method of the linear layers of the base."""
    return METHODS[ARMS[method].base_storage(model.quant_type)]


def adapted_modules(architecture: Architecture, train: TrainConfig) -> tuple[Module, ...]:
    """Return the layers with an adapter: all linear or the named layers of the text decoder, none of a vision tower."""
    names = [name.strip() for name in train.target_modules.split(",") if name.strip()]
    if names == ["all-linear"]:
        return architecture.linear(vision=False)
    return tuple(
        module
        for module in architecture.modules
        if module.kind in ("linear", "head")
        and not module.name.startswith(VISION)
        and any(module.name == name or module.name.endswith(f".{name}") for name in names)
    )


def adapter_parameters(module: Module, rank: int) -> int:
    """Return the number of values of one adapter: A is [rank, in], B is [out, rank]."""
    return rank * (module.inputs + module.outputs)


def optimizer_bytes(tensors: list[int], optimizer: str) -> int:
    """Return the bytes of AdamW's two moments for trained tensors of these numbers of values.

    ``adamw`` and ``paged_adamw_32bit`` store two float32 values per value, ``paged_adamw_8bit`` two bytes and a float32
    constant per 256 values.
    """
    if optimizer != "paged_adamw_8bit":
        return 8 * sum(tensors)
    small = sum(values for values in tensors if values < _MIN_8BIT_VALUES)
    large = [values for values in tensors if values >= _MIN_8BIT_VALUES]
    return 8 * small + 2 * sum(values + 4 * math.ceil(values / _STATE_BLOCK) for values in large)


SHARED_INPUTS = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
"""Names of layers that are called one after the other with the same input."""
MAX_EAGER_TOKENS = 256
"""Longest row, in tokens, for which a CPU materializes the attention weights (faster, measured on two cores)."""
LOSS_ROWS = {"cpu": 8, "cuda": 512}
"""Rows of logits that the loss converts to float32 at once, by device; such a chunk fits a CPU's cache and needs little
GPU memory. Three chunks exist at the same time: the previous probabilities, the logits and their probabilities."""
_LOSS_COPIES = 3


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    rows: int  # sequences
    length: int  # tokens of each sequence with padding
    supervised: int  # positions of all rows together
    columns: int  # positions of a row for which the head computes logits
    padded: bool = False  # rows differ in length, which requires an attention mask

    @property
    def tokens(self) -> int:
        """Number of positions with padding."""
        return self.rows * self.length


@dataclass(frozen=True)
class ComputeSettings:
    """Settings of the trainer that determine the activations."""

    width: int  # bytes per value in the compute dtype
    device: str
    rank: int  # of the adapters
    dropout: float  # probability
    checkpointing: bool  # activations are recomputed
    fused: bool = True  # adapted layers that share an input are computed together


@dataclass(frozen=True)
class Activations:
    """Bytes at the peak of a training step."""

    kept: int  # saved by the blocks for the backward pass; with checkpointing only their inputs
    block: int  # added by one block while it is recomputed or in its backward pass
    head: int  # the last norm, the logits and their gradients
    casts: int  # adapters in the compute dtype
    dequantized: int  # frozen weights in the compute dtype: all if a CPU dequantizes in advance, else the largest

    @property
    def total(self) -> int:
        """Sum of all, with the larger one of head and block, which are not in use at the same time."""
        return self.kept + max(self.block, self.head) + self.casts + self.dequantized


def activations(
    architecture: Architecture,
    adapted: Sequence[Module],
    batch: Batch,
    how: ComputeSettings,
    *,
    dequantized_bytes: int,
) -> Activations:
    """Return the bytes of one training step.

    ``adapted`` are the layers with an adapter, which save their input.
    """
    by_block: list[list[Module]] = [[] for _ in architecture.blocks]
    for module in adapted:
        index = next(
            (int(part) for part in module.name.split(".") if part.isdigit()), len(by_block)
        )
        if index < len(by_block) and not module.name.startswith(VISION):
            by_block[index].append(module)
    blocks = [
        _block_bytes(block, batch, how) + batch.tokens * adapter_input_bytes(layers, how)
        for block, layers in zip(architecture.blocks, by_block, strict=True)
    ]
    gradients = max(
        batch.tokens * how.width * (5 * block.intermediate + 4 * block.hidden)
        for block in architecture.blocks
    )
    inputs = batch.tokens * how.width * architecture.hidden * len(blocks)
    adapters = sum(adapter_parameters(layer, how.rank) for layer in adapted)
    casts = 0 if how.width == 4 else how.width * adapters
    gpu_fused = how.fused and how.device != "cpu"  # a group keeps its casts until the next step
    chunk = 4 * _LOSS_COPIES * min(LOSS_ROWS[how.device], batch.supervised)
    logits = (2 * how.width * batch.supervised + chunk) * architecture.vocabulary
    norm = batch.tokens * (4 + how.width) + how.width * batch.rows * batch.columns
    return Activations(
        kept=inputs if how.checkpointing else sum(blocks),
        block=gradients + (max(blocks) if how.checkpointing else 0),
        head=norm * architecture.hidden + logits,
        casts=casts if gpu_fused or not how.checkpointing else casts // len(blocks),
        dequantized=dequantized_bytes,
    )


def _block_bytes(block: Block, batch: Batch, how: ComputeSettings) -> int:
    # without adapters
    wide, length = how.width, batch.length
    norm = wide if how.device == "cpu" else 4
    both = block.attention + block.key_value
    norms = norm * (block.norms * block.hidden + block.head_norms * both)
    if block.eager:  # scores, tanh, float32 softmax, weights
        attention = block.heads * length * (4 + 3 * wide) + 2 * wide * both
    elif how.device == "cpu" and length <= MAX_EAGER_TOKENS:
        attention = wide * (both + block.key_value + block.heads * length)
    elif batch.padded:  # a mask rules out grouped queries
        attention = wide * (4 * block.attention + length) + 4 * block.heads
    else:
        attention = 2 * wide * both + 4 * block.heads
    gate = 3 * wide * block.intermediate
    routed = wide * block.experts * block.hidden  # output of each expert before the weighted sum
    return batch.tokens * (norms + attention + gate + routed)


def adapter_input_bytes(layers: Sequence[Module], how: ComputeSettings) -> int:
    """Return the bytes per token that the adapters of one block save for the backward pass."""
    ranks = how.width * how.rank * len(layers)
    if how.dropout and not how.fused:
        return ranks + (how.width + 1) * sum(layer.inputs for layer in layers)
    shared: dict[str, tuple[str, int]] = {}
    for layer in layers:
        name = layer.name.rpartition(".")[2]
        group = next((str(names) for names in SHARED_INPUTS if name in names), layer.name)
        shared[group] = name, layer.inputs
    # a GPU's attention saves its output anyway
    inputs = sum(size for name, size in shared.values() if name != "o_proj" or how.device == "cpu")
    # a GPU saves a mask of bytes, a CPU the indices of dropped values as int64
    mask = 8 * how.dropout if how.device == "cpu" else bool(how.dropout)
    return ranks + how.width * inputs + round(sum(size for _, size in shared.values()) * mask)


_BLOCK = re.compile(r"^.*?\.\d+(?=\.)")
_UNSHARDED_BLOCKS = 2  # the block being computed, and the next one, which is prefetched


@dataclass(frozen=True)
class ParallelStrategy:
    """The distribution of a training: DDP has the complete model on each device, FSDP a shard of each layer."""

    kind: Literal["one", "ddp", "fsdp"] = "one"
    devices: int = 1

    @property
    def shards(self) -> int:
        """Number of devices over which the weights are sharded."""
        return self.devices if self.kind == "fsdp" else 1


def devices_to_use(config: StudyConfig, machine: Machine) -> int:
    """Return the number of devices for one arm: the requested one, else the largest that divides a step's pairs evenly.

    GPUs that differ from the first are used on request only. A CPU can be shared by any number of processes.

    Raises:
        ResourceError: More GPUs are requested than available.
    """
    wanted, available = config.executor.devices, machine.devices
    if wanted is None:
        counts = range(1, available + 1)
        return max(count for count in counts if config.train.batch_size % count == 0)
    available = max(available, len(machine.cards))
    if machine.device == "cuda" and wanted > available:
        raise ResourceError(
            mn(
                "executor.devices={wanted}, and the training sees {count} GPU",
                "executor.devices={wanted}, and the training sees {count} GPUs",
                available,
                wanted=wanted,
                available=available,
            ),
            remedy=m(
                "Lower executor.devices or leave it empty; on a Ray cluster, raise executor.train_gpus to it"
            ),
        )
    return wanted


def per_device_batch_size(train: TrainConfig, devices: int) -> int:
    """Return the micro-batch size of each device: at most ``micro_batch``, and a divisor of its share of a step.

    The pairs of a step, their order, the number of steps and the schedule do not depend on the number of devices.
    """
    share = train.batch_size // devices
    return max(rows for rows in range(1, min(train.micro_batch, share) + 1) if share % rows == 0)


def unsharded_bytes(layers: Iterable[tuple[str, int, int]]) -> int:
    """Return the bytes of layers that an FSDP device unshards: two blocks and all modules outside of blocks.

    ``layers``: name, parameters and stored bytes of every module of the base.
    """
    blocks: Counter[str] = Counter()
    for name, _, stored in layers:
        block = _BLOCK.match(name)
        blocks[block[0] if block else ""] += stored
    outside = blocks.pop("", 0)
    return outside + _UNSHARDED_BLOCKS * max(blocks.values(), default=0)
