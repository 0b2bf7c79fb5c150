"""What a step asks a node of a cluster for, and whether there is a node that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistant_builder.errors import ResourceError
from assistant_builder.planning.advice import gigabytes
from assistant_builder.planning.memory_check import OVERRULE, StepMemory, step_memory
from assistant_builder.steps import evaluates
from assistant_builder.study import Study


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its address, and all that its steps can share out among them."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class Ask:
    """What a step asks a node for.

    Attributes:
        cpus: Processors, of which the step uses the whole ones, at least one.
        gpus: GPUs.
        memory_bytes: Main memory; 0 asks for none.
    """

    cpus: float
    gpus: float = 0.0
    memory_bytes: int = 0

    def fits(self, node: Node) -> bool:
        """Whether a node has it, while nothing else runs there."""
        return self.cpus <= node.cpus and self.gpus <= node.gpus and self.memory_bytes <= node.memory_bytes


def ask_of(study: Study, step: str, nodes: Sequence[Node]) -> Ask:
    """What a step asks for: as the settings say, else memory as planned for the node that has most of it.

    Raises:
        ResourceError: By the plan no node has the memory, even if the plan is too high by all that is known of its
            error, and ``train.allow_low_memory`` is off.
    """
    executor = study.config.executor
    if step.startswith("train-"):
        cpus, wanted, asked = executor.train_cpus, executor.train_gpus, executor.train_memory_gb
    elif evaluates(step):
        cpus, wanted, asked = executor.evaluate_cpus, executor.evaluate_gpus, executor.evaluate_memory_gb
    else:
        return Ask(1.0)
    usual = float(executor.devices or 1) if step.startswith("train-") else 1.0
    gpus = wanted if wanted is not None else usual * any(node.gpus >= usual for node in nodes)
    if asked is not None or gpus:
        return Ask(cpus, gpus, round((asked or 0) * 1e9))
    most = max((node.memory_bytes for node in nodes), default=0)
    planned = step_memory(study, step, most)
    if planned is None:
        return Ask(cpus)
    if planned.least_bytes > most and not study.config.train.allow_low_memory:
        raise _too_large(planned, step, most)
    return Ask(cpus, memory_bytes=min(planned.expected_bytes, most))


def _too_large(planned: StepMemory, step: str, most: int) -> ResourceError:
    return ResourceError(
        f"it needs about {gigabytes(planned.expected_bytes)} of memory, {gigabytes(planned.least_bytes)} at the very "
        f"least, and no node of the cluster has more than {gigabytes(most)} for its steps",
        where=f"step {step}", remedy="Add a node with more memory, or choose a smaller base model. To start all the "
        f"same, set {OVERRULE}",
    )


def require_node(ask: Ask, nodes: Sequence[Node], step: str) -> None:
    """Refuse a step that no node can ever run.

    Raises:
        ResourceError: No node has what it asks for.
    """
    if any(ask.fits(node) for node in nodes):
        return
    kind = "evaluate" if evaluates(step) else "train"
    there = "; ".join(sorted({_words(node.cpus, node.gpus, node.memory_bytes) for node in nodes})[:4])
    raise ResourceError(
        f"it asks for {_words(ask.cpus, ask.gpus, ask.memory_bytes)}, and no node of the cluster has that; there are "
        f"nodes with {there or 'nothing'}", where=f"step {step}",
        remedy=f"Lower executor.{kind}_cpus, {kind}_gpus or {kind}_memory_gb, or add such a node",
    )


def _words(cpus: float, gpus: float, memory_bytes: int) -> str:
    parts = [f"{cpus:g} CPU{'s' if cpus != 1 else ''}", f"{gpus:g} GPU{'s' if gpus != 1 else ''}" if gpus else "",
             gigabytes(memory_bytes) if memory_bytes else ""]
    return ", ".join(filter(None, parts))
