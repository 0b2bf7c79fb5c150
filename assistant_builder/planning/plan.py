"""The plan of a training: memory, fit, time and cost of every method for one model, configuration and machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS, plain_order
from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.planning.architecture import Architecture, Module
from assistant_builder.planning.hardware import Machine, this_machine, with_speed
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import (
    DTYPE_BYTES,
    Activations,
    Batch,
    ComputeSettings,
    Method,
    ParallelStrategy,
    activations,
    adapted_modules,
    adapter_parameters,
    base_storage,
    devices_to_use,
    optimizer_bytes,
    per_device_batch_size,
    unsharded_bytes,
)
from assistant_builder.planning.training_time import (
    ROUNDING_SPEED,
    MeasuredRuns,
    TrainingFlops,
    load_measured_runs,
    total_steps,
)
from assistant_builder.quantization import texts_of
from assistant_builder.retrieval.augment import repetitions

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
MAX_MEMORY_SHARE = 0.95
"""Largest share of the memory that a training may use; the rest is a reserve for what the formulas do not cover."""
COMFORTABLE_SHARE = 0.90  # share of the memory up to which a method fits comfortably (``room``)
Fit = Literal["room", "tight", "no"]
ASSUMED_PAIRS = 10_000  # if no data is known


@dataclass(frozen=True)
class MethodPlan:
    """One method on one machine."""

    method: Method
    layers: tuple[tuple[str, int, int], ...]  # module of the base, its parameters and stored bytes
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activations: Activations  # of a step
    overhead_bytes: int  # of process and allocator
    trained_parameters: int  # number of trained values
    inference_bytes: int  # for answering one question on this machine
    checkpointing: bool  # activations are recomputed
    dequantized: bool  # a CPU keeps frozen weights in the compute dtype, counted as activations
    work: TrainingFlops
    seconds: float | None  # None if the speed of the machine is unknown
    memory_bytes: int  # available memory
    factor: float = 1.0  # median ratio of measured to predicted memory in finished runs
    shards: int = 1  # FSDP devices
    gathered_bytes: int = 0  # unsharded layers that an FSDP device holds while it computes them
    loading_bytes: int = 0  # peak on one device while the base is loaded
    loading_host_bytes: int = 0  # main memory of all sharded processes while loading, else 0

    @property
    def weights_bytes(self) -> int:
        """Bytes of the frozen base as stored."""
        return sum(stored for _, _, stored in self.layers)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each component of the peak on one device.

        ``loading`` is what loading needs beyond training, if anything.
        """
        training = {
            "weights": self.weights_bytes // self.shards + self.gathered_bytes,
            "adapters": self.adapter_bytes // self.shards,
            "gradients": self.gradient_bytes // self.shards,
            "optimizer": self.optimizer_bytes // self.shards,
            "activations": self.activations.total,
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
        """Predicted peak, corrected by the finished runs of this machine."""
        return round(self.total_bytes * self.factor)

    @property
    def fit(self) -> Fit:
        """Whether the method fits the available memory."""
        share = self.expected_bytes / self.memory_bytes
        if share > MAX_MEMORY_SHARE:
            return "no"
        return "room" if share <= COMFORTABLE_SHARE else "tight"

    def cost(self, price_per_hour: float | None) -> float | None:
        """Cost of the training in the currency of the price."""
        if self.seconds is None or price_per_hour is None:
            return None
        return self.seconds / 3600 * price_per_hour

    def to_record(self) -> dict[str, Any]:
        """The method's entry in ``plan --json``."""
        return {name: getattr(self, name) for name in _RECORDED} | {
            "activation_bytes": self.activations.total,
            "gradient_checkpointing": self.checkpointing,
            "flops": self.work.flops,
            "layers": [
                dict(zip(("name", "parameters", "bytes"), layer, strict=True))
                for layer in self.layers
            ],
        }


_RECORDED = (
    "weights_bytes adapter_bytes gradient_bytes optimizer_bytes overhead_bytes total_bytes expected_bytes fit "
    "loading_bytes loading_host_bytes trained_parameters inference_bytes seconds"
).split()
PROCESS_BYTES = {"cpu": 650_000_000, "cuda": 700_000_000}
"""Memory of a training process without the model. On a CPU: the libraries (0.56 GB resident after Python, torch,
transformers, bitsandbytes, peft and trl are imported) and the state of the first matrix products. On a GPU: the CUDA
context and the workspaces of its matrix library."""
ALLOCATOR_SHARE = {"cpu": 0.18, "cuda": 0.0}
"""Allocator overhead as a share of the temporary activations: on a CPU resident memory is measured, including freed
blocks and oneDNN's scratch memory; on a GPU allocated memory is measured."""
FRAGMENTATION_BYTES = {"cpu": 580_000_000, "cuda": 0}
"""Additional memory on a CPU if batches differ in length: heap fragmentation, and one set of oneDNN primitives per
length."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training sequences in tokens."""

    mean: float
    longest: int  # before train.max_length
    supervised: float  # mean positions per sequence
    longest_answer: int  # supervised positions of the longest sequence
    assumed: bool = False  # because no data is known

    @classmethod
    def assume(cls, longest: int) -> Lengths:
        """Assume a mean of half the maximum length, and that half of each sequence is the answer."""
        return cls(longest / 2, longest, longest / 4, longest // 2, assumed=True)

    @classmethod
    def about(cls, mean: float, longest: int) -> Lengths:
        """Assume that the longest sequence has the maximum length, and that half of each is the answer."""
        return cls(min(mean, longest), longest, min(mean, longest) / 2, longest // 2, assumed=True)


@dataclass(frozen=True)
class Plan:
    """All methods for one model, one configuration and one machine."""

    model: str
    architecture: Architecture
    config: StudyConfig
    machine: Machine
    pairs: int  # number of training pairs
    lengths: Lengths
    measured_runs: MeasuredRuns = MeasuredRuns()  # finished runs of this machine
    largest: Batch | None = None  # micro-batch, if every sequence is known
    shards: int = 1  # FSDP devices
    # seconds by method of a run in progress
    measured: Mapping[str, float] = field(default_factory=dict)
    repetitions: int = 1  # of each pair in an epoch

    @cached_property
    def adapted(self) -> tuple[Module, ...]:
        """Layers with an adapter."""
        return adapted_modules(self.architecture, self.config.train)

    @cached_property
    def compute_dtype(self) -> str:
        """Compute dtype of all arms."""
        wanted = self.config.model.compute_dtype
        return self.machine.compute_dtype if wanted == "auto" else wanted

    @property
    def max_length(self) -> int:
        """``train.max_length``; where it follows the data, the longest sequence, at most the context of the base."""
        length, longest = self.config.train.max_length, self.lengths.longest
        return min(longest, self.architecture.context or longest) if length == "auto" else length

    @cached_property
    def batch(self) -> Batch:
        """The largest micro-batch."""
        if self.largest is not None:
            return self.largest
        rows, length = self.config.train.micro_batch, min(self.lengths.longest, self.max_length)
        answer = max(1, min(self.lengths.longest_answer, length - 1))
        padded = rows > 1 and not self.lengths.assumed
        return Batch(rows, length, rows * answer, answer, padded)

    @cached_property
    def methods(self) -> dict[Method, MethodPlan]:
        """Plans of the twins and further arms of the study.

        All arms compute in the same way, to be comparable. The fastest way that fits is selected: on a CPU weights
        dequantized in advance, then weights cast at every use, then, with ``train.gradient_checkpointing=auto``,
        recomputed activations. The 16-bit arm decides; the 4-bit arm does if the 16-bit arm cannot fit or is not
        trained.
        """
        recomputing = {"on": (True,), "off": (False,), "auto": (False, True)}
        arms = self.config.arms
        methods = plain_order(dict.fromkeys((*TWINS, *arms)))
        holding = (True, False) if self.machine.device == "cpu" and self.shards == 1 else (False,)
        ways = [
            {method: self._method(method, checkpointing=again, hold=hold) for method in methods}
            for again in recomputing[self.config.train.gradient_checkpointing]
            for hold in holding
        ]
        wide, narrow = TWINS
        decides = narrow if set(arms) & set(TWINS) else arms[-1]
        if wide in arms and (ways[-1][wide].fit != "no" or arms == [wide]):
            decides = wide
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
        """Plans of the arms that the study trains."""
        return [self.methods[arm] for arm in self.config.arms]

    def fits(self, *methods: Method) -> bool:
        """Whether each of these methods fits the machine."""
        return all(self.methods[method].fit != "no" for method in methods)

    @property
    def memory_bytes(self) -> int:
        """Memory available to a training: free memory of this machine, or all memory of another."""
        return self.machine.free_bytes

    def with_changes(self, changes: Mapping[str, Any]) -> Plan:
        """Return the plan with other settings; assumed lengths follow ``train.max_length``."""
        config = self.config.with_changes(dict(changes))
        longest = config.train.assumed_length
        follows = self.lengths.assumed and config.train.max_length != self.config.train.max_length
        lengths = Lengths.about(self.lengths.mean, longest) if follows else self.lengths
        return replace(self, config=config, lengths=lengths)

    def _method(self, method: Method, *, checkpointing: bool, hold: bool) -> MethodPlan:
        device, train = self.machine.device, self.config.train_of(method)
        storage = base_storage(method, self.config.model)
        rounds = ARMS[method].rounds
        tensors = self._tensors()
        trained = sum(tensors)
        how = ComputeSettings(
            DTYPE_BYTES[self.compute_dtype],
            device,
            train.rank,
            train.dropout,
            checkpointing,
            fused=self._fused,
        )
        kept = activations(
            self.architecture,
            self.adapted,
            self.batch,
            how,
            dequantized_bytes=self._dequantized_bytes(method, hold),
        )
        varied = self.batch.padded or self.lengths.assumed
        slack = round(ALLOCATOR_SHARE[device] * (kept.total - kept.dequantized))
        overhead = PROCESS_BYTES[device] + slack + FRAGMENTATION_BYTES[device] * varied
        work = self._work(train, checkpointing=checkpointing)
        reached = self.machine.flops * storage.speed[device]
        reached *= ROUNDING_SPEED if rounds else 1
        speed = self.measured_runs.flops(self.machine, method) or reached
        modules = self.architecture.modules
        layers = tuple((each.name, each.parameters, self._stored(each, method)) for each in modules)
        return MethodPlan(
            method=method,
            layers=layers,
            adapter_bytes=4 * trained,
            gradient_bytes=4 * trained,
            optimizer_bytes=optimizer_bytes(tensors, train.optimizer),
            activations=kept,
            overhead_bytes=overhead,
            trained_parameters=trained,
            inference_bytes=self._inference_bytes(method, trained),
            checkpointing=checkpointing,
            dequantized=hold and not rounds,
            work=work,
            seconds=self.measured.get(method, work.flops / speed if speed else None),
            memory_bytes=self.memory_bytes,
            factor=self.measured_runs.memory_factor(self.machine, method),
            shards=self.shards,
            gathered_bytes=unsharded_bytes(layers) if self.shards > 1 else 0,
            **self._loading(method, sum(stored for _, _, stored in layers)),
        )

    @property
    def _fused(self) -> bool:
        grouped = self.machine.device == "cpu" or self.config.train.kernels == "fused"
        return self.shards == 1 and grouped

    def _work(self, train: TrainConfig, *, checkpointing: bool) -> TrainingFlops:
        # a frozen weight costs 2 operations forward and 2 backward (gradient of its input), 2 more if checkpointing
        # repeats the forward pass; one of an adapter costs 2 more backward. Causal attention adds two products over
        # half the length, each with two backward products. The head is computed for supervised positions only.
        architecture = self.architecture
        steps = total_steps(train, self.pairs * self.repetitions)
        recomputed, frozen = 2 if checkpointing else 0, 4
        adapters = sum(adapter_parameters(each, train.rank) for each in self.adapted)
        length = round(self.lengths.mean)
        products = sum(2 * block.attention * (length / 2) for block in architecture.blocks)
        base = architecture.active_weights * frozen + architecture.active_weights * recomputed
        body = float(base + adapters * (6 + recomputed) + products * (6 + recomputed))
        head = float(architecture.hidden * architecture.vocabulary * frozen)
        sequences = steps * train.batch_size
        tokens, supervised = sequences * self.lengths.mean, sequences * self.lengths.supervised
        flops = tokens * body + supervised * head
        return TrainingFlops(round(tokens), round(supervised), steps, flops)

    def _stored(self, module: Module, method: Method) -> int:
        # linear layers have the storage of the arm's quantization method and float16 biases, all other modules the
        # compute dtype
        wide, model = DTYPE_BYTES[self.compute_dtype], self.config.model
        if module.kind != "linear":
            return module.parameters * wide
        if module.tied:
            return 2 * module.bias
        storage, double = base_storage(method, model), model.double_quant
        stored = storage.weight_bytes(module.outputs, module.inputs, double_quant=double)
        return stored + 2 * module.bias

    def _loading(self, method: Method, stored: int) -> dict[str, int]:
        # Safetensors are read tensor by tensor onto the target device. At most one tensor at a time is not stored yet:
        # the 16-bit weight that is being quantized (transformers reads without worker threads while it quantizes,
        # core_model_loading.convert_and_load_state_dict_in_model); the experts of a block before they are fused; or the
        # float16 original of an embedding or head that is being cast (models.loading).
        quantizes = base_storage(method, self.config.model).quantizes
        kinds = {"experts", "linear"} if quantizes else {"experts"}
        if self.compute_dtype != "float16":
            kinds |= {"embedding", "head"}
        weights = (module.weights for module in self.architecture.modules if module.kind in kinds)
        extra, program = 2 * max(weights, default=0), PROCESS_BYTES[self.machine.device]
        if self.shards == 1:
            return {"loading_bytes": program + stored + extra}
        # until fully_shard has moved all blocks, one process holds 16-bit weights, and every process quantized ones
        readers = self.shards if quantizes else 1
        return {
            "loading_bytes": program + stored // self.shards + extra,
            "loading_host_bytes": self.shards * PROCESS_BYTES["cpu"] + readers * (stored + extra),
        }

    def _dequantized_bytes(self, method: Method, hold: bool) -> int:
        # additional bytes of frozen weights in the compute dtype: all less the stored ones, or only the largest
        wide, linear = DTYPE_BYTES[self.compute_dtype], self.architecture.linear()
        appended = self.config.train.rank * sum(module.outputs for module in self.adapted)  # B
        all_bytes = wide * (sum(module.weights for module in linear) + appended)
        if ARMS[method].rounds:  # rounded, in addition to the float16 ones
            return all_bytes
        if hold:
            return max(0, all_bytes - sum(self._stored(module, method) for module in linear))
        quantizes = base_storage(method, self.config.model).quantizes
        if not quantizes and self.compute_dtype == "float16":
            return 0
        return wide * max((module.weights for module in linear), default=0)

    def _tensors(self) -> list[int]:
        if not self.adapted:
            linear = self.architecture.linear()
            names = sorted({module.name.rpartition(".")[2] for module in linear})
            raise ModelError(
                m(
                    "train.target_modules={target_modules!r} matches no layer of {model}",
                    target_modules=self.config.train.target_modules,
                    model=self.model,
                ),
                remedy=m("Use 'all-linear' or some of: {names}", names=", ".join(names)),
            )
        features = (size for layer in self.adapted for size in (layer.inputs, layer.outputs))
        return [self.config.train.rank * size for size in features]

    def _inference_bytes(self, method: Method, trained: int) -> int:
        # bytes while answering; on a CPU the chat converts every base to the compute dtype that can be converted
        wide, storage = DTYPE_BYTES[self.compute_dtype], base_storage(method, self.config.model)
        modules = self.architecture.modules
        weights = sum(self._stored(module, method) for module in modules)
        if self.machine.device == "cpu" and not storage.rounds_inputs:
            weights = self.architecture.parameters * wide
        known = 0 if self.lengths.assumed else self.lengths.longest_answer
        tokens = self.max_length + self.config.eval.answer_limit(known)
        cache = sum(2 * wide * block.key_value * tokens for block in self.architecture.blocks)
        largest = max(module.weights for module in modules)
        adapters = 4 * trained
        logits = (wide + 4) * self.architecture.vocabulary
        unpacks = storage.quantizes and (self.machine.device == "cuda" or storage.rounds_inputs)
        unpacked = wide * largest if unpacks else 0
        return weights + adapters + cache + logits + unpacked + PROCESS_BYTES[self.machine.device]

    def price_per_hour(self) -> float | None:
        """Price of an hour from the settings, else the list price of the machine."""
        own = self.config.eval.price_per_hour
        return self.machine.price_per_hour if own is None else own


def names_bits(
    function: Callable[Concatenate[Plan, Arguments], Result],
) -> Callable[Concatenate[Plan, Arguments], Result]:
    """Decorate a function of a plan that returns texts, so that they name the bits of the storage that it is about."""

    @functools.wraps(function)
    def named(plan: Plan, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with texts_of(plan.config.model.quant_type):
            return function(plan, *args, **kwargs)

    return named


def plan_study(
    config: StudyConfig,
    pairs: int = 0,
    lengths: Lengths | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Plan the training of a study; downloads at most a config.json. 10,000 pairs are assumed if ``pairs`` is 0.

    A grounded training repeats the pairs of small data within an epoch, which is counted.

    Raises:
        ModelError: The base is unknown or not reachable, or its config is invalid.
        ResourceError: The settings request more GPUs than the machine has.
    """
    name, architecture = load_architecture(config.model.base, config.model.revision)
    machine = with_speed(machine or this_machine())
    lengths = lengths or Lengths.assume(config.train.assumed_length)
    runs = load_measured_runs(architecture.parameters)
    plan = Plan(name, architecture, config, machine, pairs or ASSUMED_PAIRS, lengths, runs)
    if config.grounded:
        plan = replace(plan, repetitions=repetitions(plan.pairs))
    return distribute(plan)


def choose_parallelism(plan: Plan, devices: int) -> ParallelStrategy:
    """Return the strategy for ``devices`` devices from the plan for one, the same for all comparable arms."""
    if devices == 1:
        return ParallelStrategy()
    wanted = plan.config.executor.spread
    if wanted == "auto":
        wanted = "ddp" if all(method.fit != "no" for method in plan.arms) else "fsdp"
    return ParallelStrategy(wanted, devices)


def distribute(plan: Plan) -> Plan:
    """Return the plan of the training on all devices that the settings and the machine allow.

    Raises:
        ResourceError: See :func:`~assistant_builder.planning.memory.devices_to_use`.
    """
    devices = devices_to_use(plan.config, plan.machine)
    if devices == 1:
        return plan
    rows = per_device_batch_size(plan.config.train, devices)
    alone = plan.with_changes({"train.micro_batch_size": rows})
    alone = replace(alone, machine=plan.machine.with_devices(devices))
    return replace(alone, shards=choose_parallelism(alone, devices).shards)
