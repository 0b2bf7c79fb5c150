"""Memory of a training step: weights, adapters, optimizer state and activations, on one device or several."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from assistant_builder.arms import ARMS
from assistant_builder.config import ModelConfig, StudyConfig, TrainConfig
from assistant_builder.errors import ResourceError
from assistant_builder.planning.architecture import VISION, Architecture, Block, Module
from assistant_builder.planning.hardware import Machine
from assistant_builder.quantization import METHODS, UNQUANTIZED, QuantizationMethod

if TYPE_CHECKING:
    from assistant_builder.planning.plan import Plan

FULL_TUNING = "full"
Method = str
"""An arm, or ``full``: fine-tuning of all weights."""
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_SMALL = 4096
"""Tensors with fewer values keep 32-bit states under 8-bit AdamW (bitsandbytes' ``min_8bit_size``)."""
_STATE_BLOCK = 256
"""Values that share a float32 constant in the states of 8-bit AdamW."""


def base_storage(method: Method, model: ModelConfig) -> QuantizationMethod:
    """How a method stores the linear layers of the base."""
    return METHODS[UNQUANTIZED if method == FULL_TUNING else ARMS[method].base_storage(model.quant_type)]


def module_bytes(module: Module, method: Method, model: ModelConfig, compute_dtype: str) -> int:
    """Bytes of one module of the base, as the trainer holds it.

    Linear layers are stored as the arm's quantization method does; their biases are float16. Everything else is held in
    the compute dtype in every arm. Full fine-tuning holds all of it in 16 bits.
    """
    wide = 2 if method == FULL_TUNING else DTYPE_BYTES[compute_dtype]
    if module.kind != "linear":
        return module.parameters * wide
    stored = 0 if module.tied else base_storage(method, model).weight_bytes(
        module.outputs, module.inputs, double_quant=model.double_quant)
    return stored + 2 * module.bias


def loading_extra_bytes(
    architecture: Architecture, method: Method, model: ModelConfig, compute_dtype: str
) -> int:
    """Bytes in use while a base is loaded, on top of what is stored of it by then.

    Safetensors are read tensor by tensor straight onto the target device. On top of the stored weights there is at most
    one tensor at a time: the 16-bit weight that is being quantized (transformers reads without worker threads while it
    quantizes, core_model_loading.convert_and_load_state_dict_in_model); a block's experts before they are stacked into
    one fused weight; or, afterwards, the float16 original of an embedding or head that is being cast to another compute
    dtype (models.loading).
    """
    kinds = {"experts"}
    if base_storage(method, model).quantizes:
        kinds.add("linear")
    if method != FULL_TUNING and compute_dtype != "float16":
        kinds |= {"embedding", "head"}
    return 2 * max((module.weights for module in architecture.modules if module.kind in kinds), default=0)


def adapted_modules(architecture: Architecture, train: TrainConfig) -> tuple[Module, ...]:
    """The layers that take an adapter: all linear ones of the text decoder, or those named; never the vision part's."""
    names = [name.strip() for name in train.target_modules.split(",") if name.strip()]
    if names == ["all-linear"]:
        return tuple(module for module in architecture.linear() if not module.name.startswith(VISION))
    return tuple(
        module for module in architecture.modules
        if module.kind in ("linear", "head") and not module.name.startswith(VISION)
        and any(module.name == name or module.name.endswith(f".{name}") for name in names)
    )


def adapter_parameters(module: Module, rank: int) -> int:
    """Values of one adapter: A is [rank, in], B is [out, rank]."""
    return rank * (module.inputs + module.outputs)


def optimizer_bytes(tensors: list[int], optimizer: str) -> int:
    """Bytes of AdamW's two moments for trained tensors.

    Args:
        tensors: Number of values of each.
        optimizer: ``adamw`` and ``paged_adamw_32bit`` keep two float32 values each, ``paged_adamw_8bit`` two bytes with
            a float32 constant for each 256 of them.
    """
    if optimizer != "paged_adamw_8bit":
        return 8 * sum(tensors)
    total = 0
    for values in tensors:
        total += 8 * values if values < _SMALL else 2 * (values + 4 * math.ceil(values / _STATE_BLOCK))
    return total


_QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj")
_GATES = ("gate_proj", "up_proj", "gate_up_proj")
_GROUPS = {name: place for place, names in enumerate((_QKV, _GATES)) for name in names}
"""Layers that share one input."""
_SHORT_ROW = 256
"""Tokens of a row up to which a CPU writes the attention weights down (training.cpu_kernels.MAX_EAGER_TOKENS)."""
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
class ComputeSettings:
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
    architecture: Architecture, adapted: Sequence[Module], batch: Batch, how: ComputeSettings, *, unpacked_bytes: int
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


def block_bytes(block: Block, batch: Batch, how: ComputeSettings) -> int:
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


def adapter_input_bytes(layers: Sequence[Module], how: ComputeSettings) -> int:
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


def head_bytes(architecture: Architecture, batch: Batch, how: ComputeSettings) -> int:
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


_BLOCK = re.compile(r"^.*?\.\d+(?=\.)")
_BLOCKS_AT_ONCE = 2
"""The block that is computed, and the next, which is brought meanwhile."""


@dataclass(frozen=True)
class ParallelStrategy:
    """How devices share a training.

    Attributes:
        kind: ``one`` device; ``ddp``: each holds the whole model; ``fsdp``: each holds a part of every layer.
        devices: How many.
    """

    kind: Literal["one", "ddp", "fsdp"] = "one"
    devices: int = 1

    @property
    def shards(self) -> int:
        """Devices over which the weights are parted."""
        return self.devices if self.kind == "fsdp" else 1


def devices_to_use(config: StudyConfig, machine: Machine) -> int:
    """How many devices train one arm: those asked for, else all that can share out a step's pairs evenly.

    Cards that differ from the first are used only where they are asked for.

    Raises:
        ResourceError: More GPUs are asked for than there are; a CPU can be shared by any number of processes.
    """
    wanted, there = config.executor.devices, machine.devices
    if wanted is None:
        return max(count for count in range(1, there + 1) if config.train.batch_size % count == 0)
    there = max(there, len(machine.cards))
    if machine.device == "cuda" and wanted > there:
        raise ResourceError(
            f"executor.devices={wanted}, and the training sees {there} GPU{'s' if there != 1 else ''}",
            remedy="Lower it or leave it empty; on a Ray cluster, raise executor.train_gpus to it",
        )
    return wanted


def per_device_batch_size(train: TrainConfig, devices: int) -> int:
    """Pairs that each device computes at once: at most ``micro_batch_size``, and a divisor of its share of a step.

    The pairs of a step stay those of one device, and so do their order, the number of steps and the schedule.
    """
    share = train.batch_size // devices
    return max(rows for rows in range(1, min(train.micro_batch_size, share) + 1) if share % rows == 0)


def choose_spread(plan: Plan, devices: int) -> ParallelStrategy:
    """How ``devices`` share the training: all arms of a study the same way, or they would not be twins.

    Args:
        plan: The plan for one device.
        devices: At least 1.
    """
    if devices == 1:
        return ParallelStrategy()
    wanted = plan.config.executor.spread
    if wanted == "auto":
        wanted = "ddp" if all(method.fit != "no" for method in plan.arms) else "fsdp"
    return ParallelStrategy(wanted, devices)


def shared(plan: Plan) -> Plan:
    """The plan of a training that the devices of its machine share as the settings and the memory say.

    Raises:
        ResourceError: See :func:`devices_to_use`.
    """
    devices = devices_to_use(plan.config, plan.machine)
    if devices == 1:
        return plan
    alone = plan.with_changes({"train.micro_batch_size": per_device_batch_size(plan.config.train, devices)})
    alone = replace(alone, machine=plan.machine.sharing(devices))
    return replace(alone, shards=choose_spread(alone, devices).shards)


def unsharded_bytes(layers: Iterable[tuple[str, int, int]]) -> int:
    """What a device of FSDP holds whole for a time: two blocks, and what lies outside of the blocks.

    Args:
        layers: Name, parameters and stored bytes of every module of the base.
    """
    blocks: Counter[str] = Counter()
    outside = 0
    for name, _, stored in layers:
        block = _BLOCK.match(name)
        if block:
            blocks[block[0]] += stored
        else:
            outside += stored
    return outside + _BLOCKS_AT_ONCE * max(blocks.values(), default=0)
