"""Refusal of trainings that cannot fit the machine, the plan of a run, and its comparison with the measured values.

A training is refused only if it would not fit even with the largest known error of the estimate. If it fits the machine
but not the memory that is currently free, the user gets a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import QLORA, TWINS
from assistant_builder.atomic_io import read_json, read_jsonl, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ModelError, ResourceError
from assistant_builder.i18n import m
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.planning.advice import (
    advise_when_nothing_fits,
    advise_without_twin,
    cheapest_card,
    method_label,
)
from assistant_builder.planning.hardware import Machine, this_machine, with_speed
from assistant_builder.planning.load_architecture import architecture_from_folder, load_architecture
from assistant_builder.planning.memory import Batch, Method, base_storage
from assistant_builder.planning.plan import PROCESS_BYTES, Lengths, MethodPlan, Plan, distribute
from assistant_builder.planning.training_time import (
    WorkRemaining,
    extrapolated_seconds,
    load_measured_runs,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary, Findings, Step
from assistant_builder.study.limits import pair_limit
from assistant_builder.study.steps import evaluates, split_run

# assumed error of a predicted peak; the measured errors in docs/planner.md are smaller
KNOWN_ERROR = 0.15
# assumed lengths until the data step has counted tokens: a lower bound for any data
_SHORTEST = Lengths(32, 32, 16.0, 16)
LOW_MEMORY_SETTING = (
    "train.allow_low_memory=true (on the page “Start without enough memory”, under Advanced)"
)


def methods_over_budget(plan: Plan, *methods: str) -> list[MethodPlan]:
    """Return the methods (by default the study's arms) whose lower bound exceeds the machine, the largest first."""
    chosen = [plan.methods[name] for name in plan.methods if name in (methods or plan.config.arms)]
    too_large = [method for method in chosen if least_bytes(method) > plan.machine.memory_bytes]
    return sorted(too_large, key=lambda method: -method.expected_bytes)


def least_bytes(method: MethodPlan) -> int:
    """Return the lower bound of the peak: the estimate less its largest known error."""
    return round(method.expected_bytes * (1 - KNOWN_ERROR))


def refusal(plan: Plan, *methods: str) -> ResourceError | ConfigError | None:
    """Return the error of a training that cannot start on this machine; None if it can or the user allows it.

    ``methods`` are the arms to be trained, by default those of the study.
    """
    storages = (base_storage(arm, plan.config.model) for arm in methods or plan.config.arms)
    errors = filter(None, (storage.sharding_error() for storage in storages))
    if plan.shards > 1 and (error := next(errors, None)):
        return error
    if plan.shards > 1 and plan.config.train.optimizer.startswith("paged_"):
        return _paged_shards(plan)
    too_large = methods_over_budget(plan, *methods)
    if not too_large or plan.config.train.allow_low_memory:
        return None
    worst = too_large[0]
    none_fits = methods_over_budget(plan, QLORA.name)
    remedies = advise_when_nothing_fits(plan).remedies if none_fits else advise_without_twin(plan)
    suggestions = " ".join(remedies) or "Choose a smaller base model."
    return ResourceError(
        m(
            "{method_label} of {model} needs about {gigabytes} of memory, {gigabytes_2} at the very least, and {name} "
            "has {gigabytes_3}",
            method_label=method_label(worst.method),
            model=plan.model,
            gigabytes=format_bytes(worst.expected_bytes),
            gigabytes_2=format_bytes(least_bytes(worst)),
            name=plan.machine.name,
            gigabytes_3=format_bytes(plan.machine.memory_bytes),
        ),
        remedy=m(
            "{suggestions} To start anyway, set {low_memory_setting}",
            suggestions=suggestions,
            low_memory_setting=LOW_MEMORY_SETTING,
        ),
    )


def _paged_shards(plan: Plan) -> ConfigError:
    # the paged optimizers of bitsandbytes do not support sharded tensors (``DTensor``)
    train = plan.config.train
    what = m(
        "train.optimizer={optimizer} cannot be sharded, and the weights are sharded over {shards} devices "
        "(executor.spread=fsdp, set or selected because an arm does not fit one device)",
        optimizer=train.optimizer,
        shards=plan.shards,
    )
    remedy = m(
        "Set {train.optimizer=adamw}, whose state can be sharded; or executor.spread=ddp, if both arms fit"
    )
    return ConfigError(what, where="train.optimizer", remedy=remedy)


def require_fit(plan: Plan, *methods: str) -> None:
    """Raise the error that :func:`refusal` returns.

    Raises:
        ConfigError: The optimizer or a base cannot be sharded.
        ResourceError: An arm cannot fit the machine.
    """
    error = refusal(plan, *methods)
    if error is not None:
        raise error


def require_device(config: StudyConfig, device: str) -> None:
    """Check that the device (``cpu`` or ``cuda``) supports the settings.

    Raises:
        ConfigError: A setting requires a GPU and the device is a CPU.
    """
    optimizer = config.train.optimizer
    if device != "cuda" and optimizer != "adamw":
        raise ConfigError(
            m(
                "train.optimizer={optimizer} needs a GPU, and this machine has none that can be used",
                optimizer=optimizer,
            ),
            where="train.optimizer",
            remedy=m("Set {train.optimizer=adamw}"),
        )
    for method in (base_storage(arm, config.model) for arm in config.arms):
        if device != "cuda" and method.needs_gpu:
            raise ConfigError(
                m(
                    "a base stored as {name} needs a GPU, and this machine has none that can be used",
                    name=method.name,
                ),
                where="model.quant_type",
                remedy=m("Choose another {model.quant_type}"),
            )


def require_study_fit(study: Study) -> None:
    """Check before any download that the arms still to be trained fit this machine.

    Until the data step has counted tokens, the pairs are assumed to be as short as possible.

    Raises:
        ConfigError: An arm needs a GPU, or its optimizer or its base cannot be sharded.
        ResourceError: An arm cannot fit.
    """
    arms = [arm for arm in study.config.arms if study.step(f"train-{arm}").state != "succeeded"]
    if arms:
        require_device(study.config, this_machine().device)
    train = study.config.train
    if arms and (train.optimizer.startswith("paged_") or not train.allow_low_memory):
        plan = _plan_on(this_machine(), study, _SHORTEST)
        if plan is not None:
            require_fit(plan, *arms)


def memory_note(study: Study) -> str:
    """Return a warning if a local training needs more memory than is currently free; otherwise an empty string."""
    if study.config.executor.kind != "local":
        return ""
    plan = _plan_on(this_machine(), study, Lengths.assume(pair_limit(study)))
    if plan is None:
        return ""
    needed = max(method.expected_bytes for method in plan.arms)
    if needed <= plan.memory_bytes:
        return ""
    return (
        f"Training needs about {format_bytes(needed)} of memory, and {format_bytes(plan.memory_bytes)} are free. Close "
        "other programs, or lower train.micro_batch_size."
    )


def where_both_fit(study: Study) -> str:
    """Return where a study of one arm could train both: ``here``, the name of the cheapest card, or an empty string."""
    config = study.config.with_changes({"arms": list(TWINS)})
    lengths = Lengths.assume(pair_limit(study))
    try:
        plan = _plan_on(this_machine(), study, lengths, config=config)
    except ResourceError:  # the settings request more devices than this machine has
        one = config.with_changes({"executor.devices": 1})
        plan = _plan_on(this_machine(), study, lengths, config=one)
    if plan is None:
        return ""
    if config.executor.kind == "local" and not methods_over_budget(plan):
        return "here"
    card = cheapest_card(plan, *TWINS)
    return card.name if card is not None else ""


@dataclass(frozen=True)
class StepMemory:
    """Main memory of a step on a CPU node: the estimate and its lower bound."""

    expected_bytes: int
    least_bytes: int


def step_memory(study: Study, step: str, node_bytes: int) -> StepMemory | None:
    """Return the memory of a step ``train-…``, ``score-…`` or ``evaluate`` on a node with ``node_bytes`` of memory.

    The evaluation loads one base at a time. None: the base is unknown, which the first step reports. Until the data
    step has counted tokens, the pairs are assumed to be as short as possible.
    """
    node = Machine("a node", "cpu", node_bytes, node_bytes)
    plan = _plan_on(node, study, _SHORTEST)
    if plan is None:
        return None
    if evaluates(step):
        largest = max(method.weights_bytes + method.adapter_bytes for method in plan.arms)
        return StepMemory(largest + PROCESS_BYTES["cpu"], largest)
    method = plan.methods[split_run(step.removeprefix("train-"))[0]]
    return StepMemory(method.expected_bytes, least_bytes(method))


def _plan_on(
    machine: Machine, study: Study, fallback: Lengths, *, config: StudyConfig | None = None
) -> Plan | None:
    # None if the base is unknown, which the first step reports; ``fallback``: until the data step has counted tokens
    config = config or study.config
    try:
        name, architecture = load_architecture(config.model.base, config.model.revision)
    except ModelError:
        return None
    lengths = _measured_lengths(study) or fallback
    runs = load_measured_runs(architecture.parameters)
    return distribute(Plan(name, architecture, config, machine, 0, lengths, runs))


def _measured_lengths(study: Study) -> Lengths | None:
    path = study.folder / "data" / "findings.json"
    findings = read_json(path, Findings) if path.exists() else {}
    counted: dict[str, Any] = findings.get("token_lengths") or {}
    if not counted.get("max"):
        return None
    longest = min(int(counted["max"]), pair_limit(study))
    mean = min(float(counted.get("mean") or longest), longest)
    return Lengths(mean, longest, mean / 2, longest // 2)


PLAN_FILE = "plan.json"


def plan_run(
    config: StudyConfig,
    folder: Path,
    sequences: Sequence[tuple[int, int]],
    order: Sequence[int],
    machine: Machine | None = None,
) -> Plan:
    """Return the plan of a training whose tokens are known.

    ``sequences`` are tokens and supervised positions of each training sequence, ``order`` their indices in training
    order.
    """
    rows, trained = config.train.micro_batch, [sequences[index] for index in order]
    batches = [trained[at : at + rows] for at in range(0, len(order), rows)]
    padded = sum(len(batch) * max(length for length, _ in batch) for batch in batches)
    tokens, answers = zip(*trained, strict=True)
    count = len(trained)
    lengths = Lengths(padded / count, max(tokens), sum(answers) / count, max(answers))
    architecture = architecture_from_folder(folder)
    machine, runs = (
        with_speed(machine or this_machine()),
        load_measured_runs(architecture.parameters),
    )
    name, pairs, largest = config.model.base, len(sequences), largest_batch(batches)
    return Plan(name, architecture, config, machine, pairs, lengths, runs, largest)


def largest_batch(batches: Iterable[Sequence[tuple[int, int]]]) -> Batch:
    """Return the micro-batch with the most positions; among equals the one with the most supervised positions.

    Micro-batches have (tokens, supervised tokens) per sequence; the supervised tokens are the last ones.
    """

    def shape(batch: Sequence[tuple[int, int]]) -> Batch:
        lengths, answers = zip(*batch, strict=True)
        padded = len(set(lengths)) > 1
        return Batch(len(batch), max(lengths), sum(answers), max(answers), padded)

    return max(map(shape, batches), key=lambda batch: (batch.tokens, batch.supervised))


def prediction(plan: Plan, method: Method, trained: float = 1.0) -> dict[str, Any]:
    """Return the predicted values for a run's ``summary.json``, with the keys of the measured ones.

    ``trained`` is the share of the steps that were taken before a stop: later estimates learn the speed of this machine
    from the time and these operations.

    The peak is uncorrected, because the correction of later plans is computed from it.
    """
    planned = plan.methods[method]
    # the measured peak of a GPU is allocated memory without the context
    context = planned.overhead_bytes if plan.machine.device == "cuda" else 0
    return {
        "base_bytes": planned.weights_bytes,
        "adapter_bytes": planned.adapter_bytes,
        "peak_memory_bytes": planned.total_bytes - context,
        "corrected_peak_bytes": planned.expected_bytes,
        "train_seconds": planned.seconds and planned.seconds * trained,
        "flops": planned.work.flops * trained,
        "parts": planned.parts,
    }


@dataclass(frozen=True)
class _PlanFile:
    ahead: WorkRemaining


def write_plan(arm_folder: Path, plan: Plan, method: Method, ahead: WorkRemaining) -> None:
    """Write ``plan.json`` to the run's folder, for the time estimate during the run."""
    content = {"predicted": prediction(plan, method), "ahead": asdict(ahead)}
    write_json(arm_folder / PLAN_FILE, content)


def measured_seconds(arm_folder: Path) -> float | None:
    """The seconds of an arm's training, extrapolated from its steps until it ends; None before the fifth step."""
    path, ended = arm_folder / PLAN_FILE, arm_folder / "summary.json"
    if not path.exists():
        return None
    ahead = read_json(path, _PlanFile).ahead
    if ended.is_file():
        return read_json(ended, ArmSummary).get("train_seconds")
    return extrapolated_seconds(read_jsonl(arm_folder / "metrics.jsonl", Step), ahead)
