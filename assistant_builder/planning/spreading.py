"""How several devices share one training: which way, and how many pairs each computes at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.errors import ResourceError
from assistant_builder.planning.machines import Machine

if TYPE_CHECKING:
    from assistant_builder.planning.plan import Plan

_BLOCK = re.compile(r"^.*?\.\d+(?=\.)")
_BLOCKS_AT_ONCE = 2
"""The block that is computed, and the next, which is brought meanwhile."""


@dataclass(frozen=True)
class Spread:
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


def micro_rows(train: TrainConfig, devices: int) -> int:
    """Pairs that each device computes at once: at most ``micro_batch_size``, and a divisor of its share of a step.

    The pairs of a step stay those of one device, and so do their order, the number of steps and the schedule.
    """
    share = train.batch_size // devices
    return max(rows for rows in range(1, min(train.micro_batch_size, share) + 1) if share % rows == 0)


def choose_spread(plan: Plan, devices: int) -> Spread:
    """How ``devices`` share the training: all arms of a study the same way, or they would not be twins.

    Args:
        plan: The plan for one device.
        devices: At least 1.
    """
    if devices == 1:
        return Spread()
    wanted = plan.config.executor.spread
    if wanted == "auto":
        wanted = "ddp" if all(method.fit != "no" for method in plan.arms) else "fsdp"
    return Spread(wanted, devices)


def shared(plan: Plan) -> Plan:
    """The plan of a training that the devices of its machine share as the settings and the memory say.

    Raises:
        ResourceError: See :func:`devices_to_use`.
    """
    devices = devices_to_use(plan.config, plan.machine)
    if devices == 1:
        return plan
    alone = plan.with_changes({"train.micro_batch_size": micro_rows(plan.config.train, devices)})
    alone = replace(alone, machine=plan.machine.sharing(devices))
    return replace(alone, shards=choose_spread(alone, devices).shards)


def gathered_bytes(layers: Iterable[tuple[str, int, int]]) -> int:
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
