"""Resources that a step requests from a cluster node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistant_builder.errors import ResourceError
from assistant_builder.i18n import m
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.planning.memory_check import LOW_MEMORY_SETTING, step_memory
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates


@dataclass(frozen=True)
class Node:
    """A cluster node: its address, and the resources that Ray can allocate on it."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class ResourceRequest:
    """The resources that a step requests from a node."""

    cpus: float  # CPU cores; the integer part, at least one, is the number of threads of the step
    gpus: float = 0.0
    memory_bytes: int = 0  # main memory; 0 requests none

    def fits(self, node: Node) -> bool:
        """Whether an idle node has these resources."""
        return (
            self.cpus <= node.cpus
            and self.gpus <= node.gpus
            and self.memory_bytes <= node.memory_bytes
        )


def resources_for_step(study: Study, step: str, nodes: Sequence[Node]) -> ResourceRequest:
    """The configured resources; without a memory setting, the planned memory on the node with the most memory.

    Raises:
        ResourceError: No node has the planned memory less its known error, and ``train.allow_low_memory`` is off.
    """
    executor = study.config.executor
    if step.startswith("train-"):
        cpus, wanted, memory_gb = executor.train_cpus, executor.train_gpus, executor.train_memory_gb
    elif evaluates(step):
        cpus, wanted, memory_gb = (
            executor.evaluate_cpus,
            executor.evaluate_gpus,
            executor.evaluate_memory_gb,
        )
    else:
        return ResourceRequest(1.0)
    usual = float(executor.devices or 1) if step.startswith("train-") else 1.0
    gpus = wanted if wanted is not None else usual * any(node.gpus >= usual for node in nodes)
    if memory_gb is not None or gpus:
        return ResourceRequest(cpus, gpus, round((memory_gb or 0) * 1e9))
    most = max((node.memory_bytes for node in nodes), default=0)
    planned = step_memory(study, step, most)
    if planned is None:
        return ResourceRequest(cpus)
    if planned.least_bytes > most and not study.config.train.allow_low_memory:
        raise ResourceError(
            m(
                "it needs about {gigabytes} of memory, {gigabytes_2} at the very least, and no node of the cluster has "
                "more than {gigabytes_3} for its steps",
                gigabytes=format_bytes(planned.expected_bytes),
                gigabytes_2=format_bytes(planned.least_bytes),
                gigabytes_3=format_bytes(most),
            ),
            where=m("step {step}", step=step),
            remedy=m(
                "Add a node with more memory, or choose a smaller base model. To start anyway, set "
                "{low_memory_setting}",
                low_memory_setting=LOW_MEMORY_SETTING,
            ),
        )
    return ResourceRequest(cpus, memory_bytes=min(planned.expected_bytes, most))


def require_node(request: ResourceRequest, nodes: Sequence[Node], step: str) -> None:
    """Raise ResourceError if no node has the requested resources."""
    if any(request.fits(node) for node in nodes):
        return
    kind = "evaluate" if evaluates(step) else "train"
    available = "; ".join(
        sorted({_describe(node.cpus, node.gpus, node.memory_bytes) for node in nodes})[:4]
    )
    raise ResourceError(
        m(
            "it requests {describe}, which no node of the cluster has; there are nodes with {available}",
            describe=_describe(request.cpus, request.gpus, request.memory_bytes),
            available=available or m("nothing"),
        ),
        where=m("step {step}", step=step),
        remedy=m(
            "Lower executor.{kind}_cpus, {kind}_gpus or {kind}_memory_gb, or add such a node",
            kind=kind,
        ),
    )


def _describe(cpus: float, gpus: float, memory_bytes: int) -> str:
    parts = [
        f"{cpus:g} CPU{'s' if cpus != 1 else ''}",
        f"{gpus:g} GPU{'s' if gpus != 1 else ''}" if gpus else "",
        format_bytes(memory_bytes) if memory_bytes else "",
    ]
    return ", ".join(filter(None, parts))
