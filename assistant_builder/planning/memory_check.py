"""Whether a training may start: what cannot fit the machine's memory is refused, unless the user wants it all the same.

A plan is an estimate. Refused is only what would not fit even if the estimate were too high by all that is known of its
error; what fits the machine but not the memory that is free at the moment is warned of.

The plan of a run that is about to start, from the sequences it will really train on; and its grade afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import QLORA, TWINS
from assistant_builder.atomic_io import read_json, read_jsonl, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ModelError, ResourceError
from assistant_builder.planning.advice import (
    advise_when_nothing_fits,
    advise_without_twin,
    cheapest_card,
    gigabytes,
    method_label,
)
from assistant_builder.planning.hardware import Machine, this_machine
from assistant_builder.planning.load_architecture import load_architecture, architecture_from_folder
from assistant_builder.planning.memory import Batch, Method, base_storage, distribute
from assistant_builder.planning.plan import PROCESS_BYTES, Lengths, MethodPlan, Plan
from assistant_builder.planning.planner import with_speed
from assistant_builder.planning.training_time import WorkRemaining, extrapolated_seconds, load_measured_runs
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates, split_run

KNOWN_ERROR = 0.15
"""Share of its peak by which a plan may be wrong. docs/planner.md has the measured errors: the largest is smaller."""
_MIN_TOKENS = 32
"""Tokens of the pairs that are taken where the data is not counted yet, so that no data could take less."""
LOW_MEMORY_SETTING = "train.allow_low_memory=true (on the page “Start without enough memory”, under All settings)"


def methods_over_budget(plan: Plan, *methods: str) -> list[MethodPlan]:
    """The methods that even at their lowest do not fit the machine, the largest first.

    Args:
        plan: The plan of a study.
        methods: The arms that are to be trained; by default those of the study.
    """
    chosen = [plan.methods[name] for name in plan.methods if name in (methods or plan.config.arms)]
    lacking = [method for method in chosen if least_bytes(method) > plan.machine.memory_bytes]
    return sorted(lacking, key=lambda method: -method.expected_bytes)


def least_bytes(method: MethodPlan) -> int:
    """The peak of training if the plan were too high by all that is known of its error."""
    return round(method.expected_bytes * (1 - KNOWN_ERROR))


def refusal(plan: Plan, *methods: str) -> ResourceError | ConfigError | None:
    """Why a training cannot start on this machine, with what would help; None where it can, or is wanted all the same.

    Args:
        plan: The plan of a study.
        methods: The arms that are to be trained; by default those of the study.
    """
    if plan.shards > 1 and plan.config.train.optimizer.startswith("paged_"):
        return _paged_shards(plan)
    lacking = methods_over_budget(plan, *methods)
    if not lacking or plan.config.train.allow_low_memory:
        return None
    worst = lacking[0]
    remedies = advise_without_twin(plan) if not methods_over_budget(plan, QLORA.name) else advise_when_nothing_fits(plan).remedies
    helps = " ".join(remedies) or "Choose a smaller base model."
    return ResourceError(
        f"{method_label(worst.method)} of {plan.model} needs about {gigabytes(worst.expected_bytes)} of memory, "
        f"{gigabytes(least_bytes(worst))} at the very least, and {plan.machine.name} has "
        f"{gigabytes(plan.machine.memory_bytes)}",
        remedy=f"{helps} To start all the same, set {LOW_MEMORY_SETTING}",
    )


def _paged_shards(plan: Plan) -> ConfigError:
    """Paged optimizers are those of bitsandbytes, which know no sharded tensors (``DTensor``)."""
    train, spread = plan.config.train, plan.config.executor.spread
    why = "is set" if spread == "fsdp" else "is chosen, because an arm does not fit one device"
    also = "; or set executor.spread=ddp, if both arms fit one device" if spread == "fsdp" else ""
    return ConfigError(
        f"train.optimizer={train.optimizer} cannot be sharded, and executor.spread=fsdp {why}", where="train.optimizer",
        remedy=f"Set train.optimizer=adamw, whose state {plan.shards} devices share out as they do the weights{also}",
    )


def require_fit(plan: Plan, *methods: str) -> None:
    """Refuse a training that cannot fit the machine, or whose optimizer cannot be sharded.

    Raises:
        ConfigError: See :func:`refusal`.
        ResourceError: Likewise.
    """
    refused = refusal(plan, *methods)
    if refused is not None:
        raise refused


def require_device(config: StudyConfig, device: str) -> None:
    """Refuse settings that only a GPU can follow.

    Args:
        config: The settings.
        device: ``cpu`` or ``cuda``: what the training will run on.

    Raises:
        ConfigError: There is one, and no GPU.
    """
    for key, everywhere in (("optimizer", "adamw"), ("kernels", "plain")):
        value = getattr(config.train, key)
        if device != "cuda" and value != everywhere:
            raise ConfigError(f"train.{key}={value} needs a GPU, and there is none", where=f"train.{key}",
                              remedy=f"Set train.{key}={everywhere}")
    for method in (base_storage(arm, config.model) for arm in config.arms):
        if device != "cuda" and method.needs_gpu:
            raise ConfigError(f"a base stored as {method.name} needs a GPU, and there is none",
                              where="model.quant_type", remedy="Choose another model.quant_type")


def require_study_fit(study: Study) -> None:
    """Refuse a study whose training cannot fit, before anything is downloaded; a study that is trained may go on.

    Until the data step has counted tokens the pairs are taken to be as short as pairs can be.

    Raises:
        ConfigError: An arm that is still to be trained needs a GPU, or its optimizer cannot be sharded.
        ResourceError: One cannot fit.
    """
    arms = [arm for arm in study.config.arms if study.step(f"train-{arm}").state != "succeeded"]
    if arms:
        require_device(study.config, this_machine().device)
    train = study.config.train
    if arms and (train.optimizer.startswith("paged_") or not train.allow_low_memory):
        plan = _plan_here(study, Lengths(_MIN_TOKENS, _MIN_TOKENS, _MIN_TOKENS / 2, _MIN_TOKENS // 2))
        if plan is not None:
            require_fit(plan, *arms)


def memory_note(study: Study) -> str:
    """A sentence where a training here fits the machine but not the memory that is free now; else empty."""
    if study.config.executor.kind != "local":
        return ""
    plan = _plan_here(study, Lengths.assume(study.config.train.max_length))
    if plan is None:
        return ""
    needed = max(method.expected_bytes for method in plan.arms)
    if needed <= plan.memory_bytes:
        return ""
    return (f"Training needs about {gigabytes(needed)} of memory, and {gigabytes(plan.memory_bytes)} are free: close "
            "other programs, or lower train.micro_batch_size.")


def where_both_fit(study: Study) -> str:
    """Where a study of one arm could train both: ``here``, the cheapest card that holds both, or empty for neither."""
    config = study.config.with_changes({"arms": list(TWINS)})
    lengths = Lengths.assume(config.train.max_length)
    try:
        plan = _plan_on(this_machine(), study, lengths, config=config)
    except ResourceError:  # the settings ask for more devices than this machine has
        plan = _plan_on(this_machine(), study, lengths, config=config.with_changes({"executor.devices": 1}))
    if plan is None:
        return ""
    if config.executor.kind == "local" and not methods_over_budget(plan):
        return "here"
    card = cheapest_card(plan, *TWINS)
    return card.name if card is not None else ""


@dataclass(frozen=True)
class StepMemory:
    """Main memory that a step takes on a node that computes on its processors.

    Attributes:
        expected_bytes: As planned.
        least_bytes: If the plan were too high by all that is known of its error.
    """

    expected_bytes: int
    least_bytes: int


def step_memory(study: Study, step: str, node_bytes: int) -> StepMemory | None:
    """The memory plan of a training step or of the evaluation.

    The evaluation holds the bases of all arms at once; its parts hold one.

    Args:
        study: The study; until its data step has counted tokens the pairs are taken to be as short as pairs can be.
        step: ``train-…``, ``score-…`` or ``evaluate``.
        node_bytes: Memory of the node; a training that does not fit recomputes activations, and so on.

    Returns:
        None where the base is unknown, which the first step will say.
    """
    node = Machine("a node", "cpu", node_bytes, node_bytes)
    plan = _plan_on(node, study, Lengths(_MIN_TOKENS, _MIN_TOKENS, _MIN_TOKENS / 2, _MIN_TOKENS // 2))
    if plan is None:
        return None
    if evaluates(step):
        held = [method.weights_bytes + method.adapter_bytes for method in plan.arms]
        bases = sum(held) if step == "evaluate" else max(held)
        return StepMemory(bases + PROCESS_BYTES["cpu"], bases)
    method = plan.methods[split_run(step.removeprefix("train-"))[0]]
    return StepMemory(method.expected_bytes, least_bytes(method))


def _plan_here(study: Study, fallback: Lengths) -> Plan | None:
    """The memory plan of a study on this machine; None where its base is unknown, which the first step will say."""
    return _plan_on(this_machine(), study, fallback)


def _plan_on(
    machine: Machine, study: Study, without_data: Lengths, *, config: StudyConfig | None = None
) -> Plan | None:
    config = config or study.config
    try:
        name, architecture = load_architecture(config.model.base, config.model.revision)
    except ModelError:
        return None
    return distribute(Plan(name, architecture, config, machine, 0, _measured_lengths(study) or without_data,
                       load_measured_runs(architecture.parameters)))


def _measured_lengths(study: Study) -> Lengths | None:
    """Lengths of the pairs as the data step counted them."""
    path = study.folder / "data" / "findings.json"
    counted: dict[str, Any] = (read_json(path).get("token_lengths") or {}) if path.exists() else {}
    if not counted.get("max"):
        return None
    longest = min(int(counted["max"]), study.config.train.max_length)
    mean = min(float(counted.get("mean") or longest), longest)
    return Lengths(mean, longest, mean / 2, longest // 2)


COMPARED_QUANTITIES = ("base_bytes", "adapter_bytes", "peak_memory_bytes", "train_seconds")
"""What is predicted and measured under the same name."""
PLAN_FILE = "plan.json"


def plan_run(
    config: StudyConfig, folder: Path, sequences: Sequence[tuple[int, int]], order: Sequence[int],
    machine: Machine | None = None,
) -> Plan:
    """The plan of a training whose data is known token by token.

    Args:
        config: The study's settings.
        folder: Where the base lies.
        sequences: Tokens, and positions that the loss counts, of each training sequence.
        order: Indices of the sequences in the order they are trained on.
        machine: Where it runs; None: here.
    """
    train = config.train
    rows = min(train.micro_batch_size, train.batch_size)
    batches = [[sequences[index] for index in order[at : at + rows]] for at in range(0, len(order), rows)]
    trained = [sequences[index] for index in order]
    padded = sum(len(batch) * max(length for length, _ in batch) for batch in batches)
    lengths = Lengths(
        padded / len(trained), max(length for length, _ in trained), sum(counted for _, counted in trained)
        / len(trained), max(counted for _, counted in trained),
    )
    architecture = architecture_from_folder(folder)
    return Plan(
        config.model.base, architecture, config, with_speed(machine or this_machine()), len(sequences), lengths,
        load_measured_runs(architecture.parameters), largest=largest_batch(batches),
    )


def largest_batch(batches: Iterable[Sequence[tuple[int, int]]]) -> Batch:
    """The micro-batch that needs most memory, by its positions, of equals by those that the loss counts.

    Args:
        batches: Micro-batches, each sequence as its tokens and how many of them the loss counts; these are its last.
    """
    def shape(batch: Sequence[tuple[int, int]]) -> Batch:
        longest = max(length for length, _ in batch)
        return Batch(
            len(batch), longest, sum(counted for _, counted in batch), max(counted for _, counted in batch),
            padded=any(length != longest for length, _ in batch),
        )

    return max(map(shape, batches), key=lambda batch: (batch.tokens, batch.supervised))


def prediction(plan: Plan, method: Method) -> dict[str, Any]:
    """What a run's ``summary.json`` keeps of the plan: bytes and seconds under the names of what is measured.

    The peak is the formula's, before any correction learnt here, so that corrections are never learnt from themselves.
    """
    planned = plan.methods[method]
    return {
        "base_bytes": planned.weights_bytes, "adapter_bytes": planned.adapter_bytes,
        # a GPU's measured peak is what is allocated, without the context
        "peak_memory_bytes": planned.total_bytes - (planned.overhead_bytes if plan.machine.device == "cuda" else 0),
        "corrected_peak_bytes": planned.expected_bytes, "train_seconds": planned.seconds,
        "flops": planned.work.flops, "parts": planned.parts,
    }


def write_plan(arm_folder: Path, plan: Plan, method: Method, ahead: WorkRemaining) -> None:
    """Keep what was planned beside the run (``plan.json``), so that a run under way can be judged by it."""
    write_json(arm_folder / PLAN_FILE, {"predicted": prediction(plan, method), "ahead": asdict(ahead)})


def measured_seconds(arm_folder: Path) -> float | None:
    """Seconds of an arm's whole training, from the steps it has made so far; None before the fifth.

    Args:
        arm_folder: ``arms/<run>``, with its metrics.jsonl and plan.json.
    """
    path = arm_folder / PLAN_FILE
    if not path.exists():
        return None
    return extrapolated_seconds(read_jsonl(arm_folder / "metrics.jsonl"), WorkRemaining(**read_json(path)["ahead"]))


def plan_accuracy(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted beside measured with the signed error, of a run that was planned.

    Args:
        summary: ``summary.json`` of a run.

    Returns:
        ``{"quantity", "predicted", "measured", "error"}``; ``error`` is (predicted − measured) / measured.
    """
    predicted = summary.get("predicted") or {}
    return [
        {"quantity": name, "predicted": predicted[name], "measured": summary[name],
         "error": (predicted[name] - summary[name]) / summary[name]}
        for name in COMPARED_QUANTITIES if predicted.get(name) and summary.get(name)
    ]
