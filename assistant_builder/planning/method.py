"""One method on one machine: its memory part by part, whether it fits, how long it takes and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.planning.activations import Activations
from assistant_builder.planning.storage import Method
from assistant_builder.planning.timing import Work

FULL = 0.95
"""Share of the memory that a training may take at most; the rest is for what no formula knows."""
ROOMY = 0.90
"""Share of the memory below which a method fits with room."""
Fit = Literal["room", "tight", "no"]


@dataclass(frozen=True)
class MethodPlan:
    """One method on one machine.

    Attributes:
        method: ``qlora``, ``lora`` or ``full`` (fine-tuning of all weights).
        layers: Name, parameters and stored bytes of every module of the base.
        adapter_bytes: Trained weights beside the base.
        gradient_bytes: Their gradients.
        optimizer_bytes: AdamW's states.
        activations: What a step keeps, part by part.
        overhead_bytes: What the process and the allocator hold besides.
        trained_parameters: How many values are trained.
        inference_bytes: Memory of answering one question afterwards, on the same machine.
        checkpointing: Whether activations are recomputed.
        held: Whether a CPU keeps the frozen weights in the compute dtype while it trains; counted with the activations.
        work: Operations of the whole training.
        seconds: Time of the whole training, None where the machine's speed is not known.
        memory_bytes: Memory there is.
        factor: What this machine's finished runs took over what was predicted for them.
        shards: Devices that each hold a part of every layer; 1: the device holds all.
        gathered_bytes: Layers that a device puts together from all parts while it computes them.
        loading_bytes: Peak on one device while the base is loaded, before anything is trained.
        loading_host_bytes: Main memory that the processes of a sharded training take together to load the base, of a
            4-bit one each its own copy, before the devices get their shards; 0 where files go straight to the device.
    """

    method: Method
    layers: tuple[tuple[str, int, int], ...]
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activations: Activations
    overhead_bytes: int
    trained_parameters: int
    inference_bytes: int
    checkpointing: bool
    held: bool
    work: Work
    seconds: float | None
    memory_bytes: int
    factor: float = 1.0
    shards: int = 1
    gathered_bytes: int = 0
    loading_bytes: int = 0
    loading_host_bytes: int = 0

    @property
    def weights_bytes(self) -> int:
        """The frozen base as stored."""
        return sum(stored for _, _, stored in self.layers)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part of the peak on one device, in the order in which they are stacked.

        The last one, ``loading``, is there only where loading takes more than training: what it takes more.
        """
        training = {
            "weights": self.weights_bytes // self.shards + self.gathered_bytes,
            "adapters": self.adapter_bytes // self.shards, "gradients": self.gradient_bytes // self.shards,
            "optimizer": self.optimizer_bytes // self.shards, "activations": self.activations.total,
            "overhead": self.overhead_bytes,
        }
        beyond = self.loading_bytes - sum(training.values())
        return {**training, "loading": beyond} if beyond > 0 else training

    @property
    def total_bytes(self) -> int:
        """Predicted peak of loading and training."""
        return sum(self.parts.values())

    @property
    def expected_bytes(self) -> int:
        """The predicted peak, corrected by what this machine's finished runs took."""
        return round(self.total_bytes * self.factor)

    @property
    def fit(self) -> Fit:
        """Whether it fits the memory there is."""
        share = self.expected_bytes / self.memory_bytes
        return "room" if share <= ROOMY else "tight" if share <= FULL else "no"

    def cost(self, price_per_hour: float | None) -> float | None:
        """What the training costs, in the currency of the price."""
        return None if self.seconds is None or price_per_hour is None else self.seconds / 3600 * price_per_hour

    def to_record(self) -> dict[str, Any]:
        """The method's part of ``plan --json``."""
        return {
            "weights_bytes": self.weights_bytes, "adapter_bytes": self.adapter_bytes,
            "gradient_bytes": self.gradient_bytes, "optimizer_bytes": self.optimizer_bytes,
            "activation_bytes": self.activations.total, "overhead_bytes": self.overhead_bytes,
            "total_bytes": self.total_bytes, "expected_bytes": self.expected_bytes, "fit": self.fit,
            "loading_bytes": self.loading_bytes, "loading_host_bytes": self.loading_host_bytes,
            "trained_parameters": self.trained_parameters, "gradient_checkpointing": self.checkpointing,
            "inference_bytes": self.inference_bytes, "seconds": self.seconds, "flops": self.work.flops,
            "layers": [{"name": name, "parameters": parameters, "bytes": stored}
                       for name, parameters, stored in self.layers],
        }
