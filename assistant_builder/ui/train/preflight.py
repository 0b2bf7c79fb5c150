"""Preflight checks of a study: the data, steps, memory and time of a run, and what forbids or advises against it.

Errors prevent a start; the user can confirm warnings. No gradio, no model.
"""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json
from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import ModelRef, resolve
from assistant_builder.models.remote_code import allows_code
from assistant_builder.planning.hardware import this_machine
from assistant_builder.planning.memory_check import refusal
from assistant_builder.planning.plan import Lengths, Plan, plan_study
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates
from assistant_builder.training.schedule import total_steps
from assistant_builder.ui.data.preview import inspect_file, preview_split
from assistant_builder.ui.study_snapshot import Snapshot, stamp

FEW_PAIRS = 50
"""Training pairs below which an assistant learns the style of the answers and few of their facts."""
FEW_HELDOUT = 30
"""Held-out answers below which only a large difference between the assistants can be detected."""
FEW_STEPS = 10
_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 20
"""Rough number of tokens that a chat template adds to a pair."""
_TYPICAL_TOKENS = 100.0
"""Tokens of a pair where the data step has not counted them."""


@dataclass(frozen=True)
class PreflightIssue:
    """An error or warning before a start, with its remedy."""

    what: str
    remedy: str


@dataclass(frozen=True)
class DataEstimate:
    """Size of the data, estimated until the data step has split and tokenized it.

    Attributes:
        train: Training pairs.
        validation: Validation pairs.
        heldout: Held-out answers.
        tokens: Mean tokens of a training pair.
        longest: Tokens of the longest pair.
    """

    train: int
    validation: int
    heldout: int
    tokens: float
    longest: float


@dataclass(frozen=True)
class PreflightResult:
    """Result of the preflight checks.

    Attributes:
        config: The settings.
        data: Size of the data; None if it cannot be used.
        steps: Optimizer steps of an arm.
        plan: Memory and time of the arms; None if the model's architecture is unknown without a request to the hub.
        scoring: Measured scoring time in seconds per held-out answer and cell; None without an earlier run.
        free_bytes: Free memory of this machine.
        errors: Issues that prevent a start.
        warnings: Issues that the user can confirm.
    """

    config: StudyConfig
    data: DataEstimate | None
    steps: int
    plan: Plan | None
    scoring: float | None
    free_bytes: int
    errors: tuple[PreflightIssue, ...] = ()
    warnings: tuple[PreflightIssue, ...] = ()

    @property
    def training_seconds(self) -> float | None:
        """Training time of all arms and seeds, one after the other."""
        seconds = [method.seconds for method in self.plan.arms] if self.plan and self.data else [None]
        return None if None in seconds else self.config.seeds * sum(each for each in seconds if each is not None)

    @property
    def needed_bytes(self) -> int | None:
        """Peak memory of training the larger arm."""
        return max(method.expected_bytes for method in self.plan.arms) if self.plan else None

    @property
    def scoring_seconds(self) -> float | None:
        """Evaluation time of the first seed; None without an earlier run."""
        if self.data is None or self.scoring is None:
            return None
        return self.scoring * self.data.heldout * len(self.config.cells)


def run_preflight(study: Study, config: StudyConfig) -> PreflightResult:
    """Check whether a study can start with the settings on the form."""
    errors: list[PreflightIssue] = []
    plan = None
    estimated = estimate_data(study, config.data)
    data = estimated if isinstance(estimated, DataEstimate) else None
    try:
        plan = make_plan(resolve(config.model.base, trust_remote_code=allows_code(config.model)), config, data)
    except AssistantBuilderError as error:
        errors.append(PreflightIssue(error.what, error.remedy))
    if isinstance(estimated, PreflightIssue):
        errors.append(estimated)
    local = config.executor.kind == "local"  # on a cluster the run checks the memory of the nodes
    refused = refusal(plan) if plan is not None and local and _will_train(study, config) else None
    if refused is not None:
        errors.append(PreflightIssue(refused.what, refused.remedy))
    result = PreflightResult(
        config=config, data=data, steps=total_steps(config.train, data.train) if data else 0,
        plan=plan, scoring=scoring_seconds(config.model.base), free_bytes=this_machine().free_bytes,
        errors=tuple(errors),
    )
    return replace(result, warnings=tuple(_warnings(result)))


def _will_train(study: Study, config: StudyConfig) -> bool:
    """Whether a start with these settings would train, and not only score and report again."""
    now = study.config
    return (config.train, config.model) != (now.train, now.model) or any(
        study.step(f"train-{arm}").state != "succeeded" for arm in config.arms)


def _warnings(result: PreflightResult) -> list[PreflightIssue]:
    found = []
    data, train = result.data, result.config.train
    if data is not None:
        if data.train < FEW_PAIRS:
            found.append(PreflightIssue(
                f"Very few training pairs: {data.train}",
                f"With fewer than {FEW_PAIRS} pairs an assistant learns the style of the answers but few facts."))
        if data.heldout < FEW_HELDOUT:
            found.append(PreflightIssue(
                f"The held-out set is small: {data.heldout} answers",
                f"With fewer than {FEW_HELDOUT} answers only a large difference can be detected. Raise the held-out "
                "share, or add more pairs."))
        if data.validation < 2:
            found.append(PreflightIssue(
                "The validation set has fewer than 2 pairs",
                "The best checkpoint cannot be selected without validation. Raise the validation share."))
        if result.steps < FEW_STEPS:
            found.append(PreflightIssue(
                f"Only {result.steps} training steps", "Raise the number of epochs, or lower the batch size."))
    if result.needed_bytes is not None and result.needed_bytes > result.free_bytes:
        found.append(PreflightIssue(
            "Training will probably not fit into the free memory",
            f"Close other programs, lower the micro-batch size ({train.micro_batch_size}) or the maximum length of a "
            f"pair ({train.max_length}), or choose a smaller base model."))
    return found


def make_plan(ref: ModelRef, config: StudyConfig, data: DataEstimate | None) -> Plan | None:
    """Plan the memory and time of the arms on this machine.

    Args:
        ref: The base model.
        config: The settings.
        data: Size of the data, if known.

    Returns:
        None if the model's architecture is unknown without a request to the hub.
    """
    if ref.kind == "hub" and ref.entry is None:
        return None
    if data is None:
        return plan_study(config)
    return plan_study(config, data.train, lengths_of(data, config))


def lengths_of(data: DataEstimate, config: StudyConfig) -> Lengths:
    """Lengths of the training pairs, truncated at ``train.max_length``."""
    longest = min(math.ceil(data.longest), config.train.max_length)
    return replace(Lengths.about(math.ceil(data.tokens), longest), assumed=False)


def estimate_data(study: Study, config: DataConfig) -> DataEstimate | PreflightIssue:
    """Size of the study's split, or of the split that new data settings would make; an issue if there is none.

    Args:
        study: The study.
        config: Data settings on the form.
    """
    split, findings = study.folder / "data" / "split.json", study.folder / "data" / "findings.json"
    if split.exists() and findings.exists() and config == study.config.data:
        record = read_json(split)
        lengths = read_json(findings).get("token_lengths") or {}
        mean, longest = lengths.get("mean") or _TYPICAL_TOKENS, lengths.get("max") or _TYPICAL_TOKENS
        return DataEstimate(record["counts"]["train"], record["counts"]["validation"], record["turns"]["heldout"],
                            float(mean), float(longest))
    if study.source is None:
        return PreflightIssue("The study's data file is missing", "Create a new study from the file.")
    found = _estimate_from_file(str(study.source), stamp([study.source]), config.model_dump_json())
    return found if isinstance(found, DataEstimate) else PreflightIssue(found["what"], found["remedy"])


@functools.lru_cache(maxsize=32)
def _estimate_from_file(path: str, version: str, settings: str) -> DataEstimate | dict[str, Any]:
    """Estimate from the data file; ``version`` is its stamp, so that a replaced file is read again."""
    config = DataConfig.model_validate(json.loads(settings))
    inspected = inspect_file(Path(path), config.columns)
    if inspected.findings is None:
        return inspected.error or {"what": "The data file cannot be read", "remedy": "See the Data tab."}
    split = preview_split(inspected.findings, config)
    if isinstance(split, dict):
        return split
    lengths = [
        sum(len(message.content) for message in pair.messages) / _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS
        for pair in split.train
    ]
    return DataEstimate(
        len(split.train), len(split.validation), sum(pair.turns for pair in split.heldout),
        sum(lengths) / max(1, len(lengths)), max(lengths, default=0.0),
    )


# time


def scoring_seconds(base: str) -> float | None:
    """Seconds per held-out answer and cell in the last evaluation of a base model on this machine."""
    for study in Study.all():
        try:
            seconds = _measured_seconds(study, base)
        except (AssistantBuilderError, KeyError, TypeError, ZeroDivisionError, OSError):
            continue  # the study is damaged
        if seconds is not None:
            return seconds
    return None


def _measured_seconds(study: Study, base: str) -> float | None:
    provenance = study.folder / "provenance.json"
    if not provenance.exists() or study.step("evaluate").state != "succeeded" or study.config.model.base != base:
        return None
    hardware = read_json(provenance)["hardware"]
    if (hardware["cores"], hardware["memory_bytes"]) != (os.cpu_count(), psutil.virtual_memory().total):
        return None
    answers = read_json(study.folder / "data" / "split.json")["turns"]["heldout"]
    seconds = sum(study.step(step).seconds for step in study.shown_steps if evaluates(step))
    return seconds / (answers * len(study.config.cells))


@dataclass(frozen=True)
class TimeRemaining:
    """Estimated remaining time of a run.

    Attributes:
        seconds: Estimate for the steps whose time is known.
        complete: Whether these are all long steps; if not, scoring takes additional time.
    """

    seconds: float
    complete: bool


def time_left(snapshot: Snapshot, scoring: float | None, answers: int) -> TimeRemaining | None:
    """Remaining time of a running study; None until its first training step has an estimate.

    An arm that has not started is assumed to need as long as the other arm.

    Args:
        snapshot: The study.
        scoring: Scoring time in seconds per answer and cell, if known.
        answers: Held-out answers that are scored.
    """
    seconds, complete, arm_seconds = 0.0, True, _arm_seconds(snapshot)
    shards = sum(record.step.startswith("score-") for record in snapshot.steps)  # with shards the evaluation is short
    short = {"data", "data-embed", "report", *(["evaluate"] if shards else [])}
    for record in snapshot.steps:
        progress = snapshot.progress.get(record.step)
        if record.state == "succeeded" or record.step in short:
            continue
        if record.state == "running" and progress is not None and progress.eta_seconds is not None:
            seconds += progress.eta_seconds
        elif record.step.startswith("train-"):
            if arm_seconds is None:
                return None
            seconds += arm_seconds
        elif scoring is not None:
            seconds += scoring * answers * len(snapshot.config.cells) / (shards or 1)
        else:
            complete = False
    return TimeRemaining(seconds, complete)


def _arm_seconds(snapshot: Snapshot) -> float | None:
    """Training time of one arm: the measured time of a finished arm, or the estimate of a running one."""
    done = [arm.summary["train_seconds"] for arm in snapshot.arms.values() if arm.summary is not None]
    running = [
        arm.last["elapsed_seconds"] + arm.last["eta_seconds"]
        for arm in snapshot.arms.values() if arm.last is not None
    ]
    return max(done or running, default=None)
