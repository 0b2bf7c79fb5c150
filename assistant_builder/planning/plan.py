"""One method on one machine: its memory part by part, whether it fits, how long it takes and what it costs.

The plan of a training: every method for one model, one set of settings and one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from assistant_builder.arms import LORA, QLORA, TWINS, plain_order
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ModelError
from assistant_builder.planning.architecture import Architecture, Module
from assistant_builder.planning.hardware import Machine
from assistant_builder.planning.memory import (
    DTYPE_BYTES,
    FULL_TUNING,
    Activations,
    Batch,
    ComputeSettings,
    Method,
    activations,
    adapted_modules,
    base_storage,
    loading_extra_bytes,
    module_bytes,
    optimizer_bytes,
    unsharded_bytes,
)
from assistant_builder.planning.training_time import FULL_SPEED, MeasuredRuns, TrainingFlops, training_work

MAX_MEMORY_SHARE = 0.95
"""Share of the memory that a training may take at most; the rest is for what no formula knows."""
COMFORTABLE_SHARE = 0.90
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
    dequantized: bool
    work: TrainingFlops
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
        return "room" if share <= COMFORTABLE_SHARE else "tight" if share <= MAX_MEMORY_SHARE else "no"

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


PROCESS_BYTES = {"cpu": 650_000_000, "cuda": 700_000_000}
"""What a training process holds before the model. On a CPU: the libraries (0.56 GB resident once Python, torch,
transformers, bitsandbytes, peft and trl are imported) and what the first matrix products set up. On a GPU: CUDA's
context and the workspaces of its matrix library."""
ALLOCATOR_SHARE = {"cpu": 0.18, "cuda": 0.0}
"""What the allocator holds beyond the activations that come and go, as a share of them: on a CPU resident memory is
measured, freed pieces and oneDNN's scratch included; on a GPU what is allocated."""
FRAGMENTATION_BYTES = {"cpu": 580_000_000, "cuda": 0}
"""What batches of differing lengths leave behind on a CPU: pieces of the heap that fit no later batch, and oneDNN's
primitives, one set for each length."""


@dataclass(frozen=True)
class Lengths:
    """How long the training sequences are, in tokens.

    Attributes:
        mean: On average.
        longest: The longest, before it is cut to ``train.max_length``.
        supervised: Positions of a sequence that the loss counts, on average.
        longest_answer: Positions that the loss counts in a batch of the longest.
        assumed: Whether nothing is known of the data and these are guesses.
    """

    mean: float
    longest: int
    supervised: float
    longest_answer: int
    assumed: bool = False

    @classmethod
    def assume(cls, longest: int) -> Lengths:
        """Without data: sequences up to the longest allowed, half that on average, half of each an answer."""
        return cls(longest / 2, longest, longest / 4, longest // 2, assumed=True)

    @classmethod
    def about(cls, mean: float, longest: int) -> Lengths:
        """From the mean alone: half of each sequence an answer, the longest as long as is allowed."""
        return cls(min(mean, longest), longest, min(mean, longest) / 2, longest // 2, assumed=True)


@dataclass(frozen=True)
class Plan:
    """All methods for one model, one set of settings, one machine.

    Attributes:
        model: What the model is called.
        architecture: What it consists of.
        config: The settings.
        machine: Where it would run.
        pairs: Training pairs.
        lengths: Their lengths.
        experience: What this machine's finished runs taught.
        largest: The micro-batch that needs most, where every sequence is known.
        shards: Devices that each hold a part of every layer (FSDP).
        measured: Seconds of each method's whole training, extrapolated from the steps of a run that is under way.
    """

    model: str
    architecture: Architecture
    config: StudyConfig
    machine: Machine
    pairs: int
    lengths: Lengths
    measured_runs: MeasuredRuns = field(default_factory=MeasuredRuns)
    largest: Batch | None = None
    shards: int = 1
    measured: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def adapted(self) -> tuple[Module, ...]:
        """The layers with an adapter."""
        return adapted_modules(self.architecture, self.config.train)

    @cached_property
    def compute_dtype(self) -> str:
        """The arithmetic of both arms."""
        wanted = self.config.model.compute_dtype
        return self.machine.compute_dtype if wanted == "auto" else wanted

    @cached_property
    def batch(self) -> Batch:
        """The largest micro-batch."""
        if self.largest is not None:
            return self.largest
        train = self.config.train
        rows, length = min(train.micro_batch_size, train.batch_size), min(self.lengths.longest, train.max_length)
        answer = max(1, min(self.lengths.longest_answer, length - 1))
        return Batch(rows, length, rows * answer, answer, padded=rows > 1 and not self.lengths.assumed)

    @cached_property
    def methods(self) -> dict[Method, MethodPlan]:
        """The twins, further arms of the study, and full fine-tuning.

        All arms hold weights and recompute activations or none does, or they would not be twins.

        The fastest way that fits is taken: on a CPU weights held in the compute dtype, then cast at every use, then,
        with ``train.gradient_checkpointing=auto``, activations recomputed. The 16-bit arm decides, or where it is out
        of question, or not trained, the 4-bit one.
        """
        recomputing = {"on": (True,), "off": (False,), "auto": (False, True)}[self.config.train.gradient_checkpointing]
        arms = self.config.arms
        methods = (*plain_order(dict.fromkeys((*TWINS, *arms))), FULL_TUNING)
        holding = (True, False) if self.machine.device == "cpu" and self.shards == 1 else (False,)
        ways = [{method: self._method(method, checkpointing=again, hold=hold) for method in methods}
                for again in recomputing for hold in holding]
        wide, narrow = TWINS
        decides = wide if wide in arms and (ways[-1][wide].fit != "no" or arms == [wide]) else (
            narrow if set(arms) & set(TWINS) else arms[-1])
        return next((way for way in ways if way[decides].fit != "no"), ways[-1])

    @property
    def qlora(self) -> MethodPlan:
        """The 4-bit arm."""
        return self.methods[QLORA.name]

    @property
    def lora(self) -> MethodPlan:
        """The 16-bit arm."""
        return self.methods[LORA.name]

    @property
    def arms(self) -> list[MethodPlan]:
        """The arms that the study trains."""
        return [self.methods[arm] for arm in self.config.arms]

    @property
    def memory_bytes(self) -> int:
        """Memory a training could take: what is free here, all of a card elsewhere."""
        return self.machine.free_bytes

    def with_changes(self, changes: Mapping[str, Any]) -> Plan:
        """The plan of other settings; lengths that are only assumed follow ``train.max_length``."""
        config = self.config.with_changes(dict(changes))
        longest = config.train.max_length
        follows = self.lengths.assumed and longest != self.config.train.max_length
        return replace(self, config=config,
                       lengths=Lengths.about(self.lengths.mean, longest) if follows else self.lengths)

    def _method(self, method: Method, *, checkpointing: bool, hold: bool) -> MethodPlan:
        full, model, train = method == FULL_TUNING, self.config.model, self.config.train
        tensors = self._tensors(full)
        trained = sum(tensors)
        how = ComputeSettings(
            2 if full else DTYPE_BYTES[self.compute_dtype], self.machine.device, 0 if full else train.rank,
            0.0 if full else train.dropout, checkpointing,
        )
        kept = activations(
            self.architecture, self.architecture.linear() if full else self.adapted, self.batch, how,
            dequantized_bytes=0 if full else self._dequantized_bytes(method, hold),
        )
        work = training_work(
            self.architecture, self.adapted, train, pairs=self.pairs, tokens_per_pair=self.lengths.mean,
            supervised_per_pair=self.lengths.supervised, checkpointing=checkpointing, full=full,
        )
        speed = self.measured_runs.flops(self.machine, method)
        reached = FULL_SPEED if full else base_storage(method, model).speed
        speed = speed or self.machine.flops * reached[self.machine.device]
        layers = tuple((module.name, module.parameters, module_bytes(module, method, model, self.compute_dtype))
                       for module in self.architecture.modules)
        return MethodPlan(
            method=method, layers=layers,
            adapter_bytes=0 if full else 4 * trained,
            gradient_bytes=(2 if full else 4) * trained,
            # full fine-tuning in 16 bits trains a float32 copy of the weights (mixed precision, 16 bytes a parameter)
            optimizer_bytes=optimizer_bytes(tensors, train.optimizer) + (4 * trained if full else 0),
            activations=kept, overhead_bytes=self._overhead_bytes(kept), trained_parameters=trained,
            inference_bytes=self._inference_bytes(method, trained), checkpointing=checkpointing,
            dequantized=hold and not full, work=work,
            seconds=self.measured.get(method, work.flops / speed if speed else None), memory_bytes=self.memory_bytes,
            factor=self.measured_runs.memory_factor(self.machine, method),
            shards=self.shards, gathered_bytes=unsharded_bytes(layers) if self.shards > 1 else 0,
            **self._loading(method, sum(stored for _, _, stored in layers)),
        )

    def _loading(self, method: Method, stored: int) -> dict[str, int]:
        """Peaks of loading the base, on one device and in main memory; ``stored`` are its bytes once loaded."""
        program = PROCESS_BYTES[self.machine.device]
        model = self.config.model
        extra = loading_extra_bytes(self.architecture, method, model, self.compute_dtype)
        if self.shards == 1:
            return {"loading_bytes": program + stored + extra}
        # until fully_shard has moved all blocks, one process holds 16-bit weights, and every process quantized ones
        readers = self.shards if base_storage(method, model).quantizes else 1
        return {"loading_bytes": program + stored // self.shards + extra,
                "loading_host_bytes": self.shards * PROCESS_BYTES["cpu"] + readers * (stored + extra)}

    def _dequantized_bytes(self, method: Method, hold: bool) -> int:
        """Frozen weights in the compute dtype: all, less the stored ones they replace, or the largest while in use."""
        wide, model = DTYPE_BYTES[self.compute_dtype], self.config.model
        linear = self.architecture.linear()
        if hold:
            adapters = sum(self.config.train.rank * module.outputs for module in self.adapted)  # B stands beside them
            stored = sum(module_bytes(module, method, model, self.compute_dtype) for module in linear)
            return max(0, wide * (sum(module.weights for module in linear) + adapters) - stored)
        if not base_storage(method, model).quantizes and self.compute_dtype == "float16":
            return 0
        return wide * max((module.weights for module in linear), default=0)

    def _overhead_bytes(self, kept: Activations) -> int:
        device = self.machine.device
        varied = self.batch.padded or self.lengths.assumed
        slack = round(ALLOCATOR_SHARE[device] * (kept.total - kept.dequantized))
        return PROCESS_BYTES[device] + slack + FRAGMENTATION_BYTES[device] * varied

    def _tensors(self, full: bool) -> list[int]:
        """Values of each trained tensor.

        Raises:
            ModelError: No layer has one of the target names.
        """
        if full:
            return [module.parameters for module in self.architecture.modules if module.parameters]
        if not self.adapted:
            names = sorted({module.name.rpartition(".")[2] for module in self.architecture.linear()})
            raise ModelError(
                f"train.target_modules={self.config.train.target_modules!r} matches no layer of {self.model}",
                remedy=f"Use 'all-linear' or some of: {', '.join(names)}",
            )
        rank = self.config.train.rank
        return [size for module in self.adapted for size in (rank * module.inputs, rank * module.outputs)]

    def _inference_bytes(self, method: Method, trained: int) -> int:
        """Memory of answering: on a CPU the chat holds either base in the compute dtype, for speed."""
        wide = DTYPE_BYTES[self.compute_dtype]
        if self.machine.device == "cpu" and method != FULL_TUNING:
            weights = self.architecture.parameters * wide
        else:
            weights = sum(module_bytes(module, method, self.config.model, self.compute_dtype)
                          for module in self.architecture.modules)
        tokens = self.config.train.max_length + self.config.eval.max_new_tokens
        cache = sum(2 * wide * block.key_value * tokens for block in self.architecture.blocks)
        largest = max(module.weights for module in self.architecture.modules)
        adapters = 0 if method == FULL_TUNING else 4 * trained
        logits = (wide + 4) * self.architecture.vocabulary
        quantized = base_storage(method, self.config.model).quantizes
        unpacked = wide * largest if self.machine.device == "cuda" and quantized else 0
        return weights + adapters + cache + logits + unpacked + PROCESS_BYTES[self.machine.device]

    def price_per_hour(self) -> float | None:
        """The study's price of an hour, else the list price of the machine."""
        own = self.config.eval.price_per_hour
        return self.machine.price_per_hour if own is None else own
