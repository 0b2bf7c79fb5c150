"""Whether a study is ready to start: what its settings come to, what speaks against it, what forbids it.

Warnings can be overruled, errors cannot. Pure: no gradio, no model.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json
from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import ModelRef, resolve
from assistant_builder.models.remote_code import allows_code
from assistant_builder.planning.hardware import this_machine
from assistant_builder.planning.memory_check import refusal
from assistant_builder.planning.plan import Lengths, Plan, plan_study
from assistant_builder.study import Study
from assistant_builder.training.schedule import total_steps
from assistant_builder.ui.data.preview import inspect_file, preview_split
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.train.eta import scoring_seconds

FEW_PAIRS = 50
"""Training pairs below which an assistant mostly learns a manner of speaking, and few facts."""
FEW_HELDOUT = 30
"""Held-out answers below which only a gross difference between the assistants shows."""
FEW_STEPS = 10
_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 20
"""Rough: what a chat template adds to a pair."""
_TYPICAL_TOKENS = 100.0
"""Where the data step has not counted them."""


@dataclass(frozen=True)
class PreflightIssue:
    """Something that speaks against starting: what, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Planned:
    """What the data gives.

    Attributes:
        train: Training pairs.
        validation: Validation pairs.
        heldout: Held-out answers.
        tokens: Mean tokens of a pair, rough until the data step has counted.
        longest: Tokens of the longest pair, likewise.
    """

    train: int
    validation: int
    heldout: int
    tokens: float
    longest: float


@dataclass(frozen=True)
class Readiness:
    """What a start with these settings would be.

    Attributes:
        config: The settings.
        data: What the data gives; None where it cannot be used.
        steps: Optimizer steps of an arm.
        plan: Memory and time of both arms; None where the model's shape is not known without the hub.
        scoring: Seconds the evaluation takes for an answer and cell, where an earlier run tells.
        free_bytes: Memory that is free.
        errors: What forbids it.
        warnings: What speaks against it.
    """

    config: StudyConfig
    data: Planned | None
    steps: int
    plan: Plan | None
    scoring: float | None
    free_bytes: int
    errors: tuple[PreflightIssue, ...] = ()
    warnings: tuple[PreflightIssue, ...] = ()

    @property
    def training_seconds(self) -> float | None:
        """All arms with all seeds, one after the other."""
        told = [method.seconds for method in self.plan.arms] if self.plan and self.data else [None]
        return None if None in told else self.config.seeds * sum(seconds for seconds in told if seconds is not None)

    @property
    def needed_bytes(self) -> int | None:
        """Peak memory of training the larger arm."""
        return max(method.expected_bytes for method in self.plan.arms) if self.plan else None

    @property
    def scoring_seconds(self) -> float | None:
        """The evaluation of the first seed, where an earlier run tells."""
        if self.data is None or self.scoring is None:
            return None
        return self.scoring * self.data.heldout * len(self.config.cells)


def assess(study: Study, config: StudyConfig) -> Readiness:
    """Look at what a start would be.

    Args:
        study: The study.
        config: Its settings as they stand on the form.
    """
    errors: list[PreflightIssue] = []
    plan = None
    planned = planned_data(study, config.data)
    data = planned if isinstance(planned, Planned) else None
    try:
        plan = plan_of(resolve(config.model.base, trust_remote_code=allows_code(config.model)), config, data)
    except AssistantBuilderError as error:
        errors.append(PreflightIssue(error.what, error.remedy))
    if isinstance(planned, PreflightIssue):
        errors.append(planned)
    here = config.executor.kind == "local"  # else the nodes' memory counts, which the run asks for
    refused = refusal(plan) if plan is not None and here and _trains(study, config) else None
    if refused is not None:
        errors.append(PreflightIssue(refused.what, refused.remedy))
    seen = Readiness(
        config=config, data=data, steps=total_steps(config.train, data.train) if data else 0,
        plan=plan, scoring=scoring_seconds(config.model.base), free_bytes=this_machine().free_bytes,
        errors=tuple(errors),
    )
    return Readiness(**{**vars(seen), "warnings": tuple(_warnings(seen))})


def _trains(study: Study, config: StudyConfig) -> bool:
    """Whether a start with these settings would train, or only score and report anew."""
    now = study.config
    return (config.train, config.model) != (now.train, now.model) or any(
        study.step(f"train-{arm}").state != "succeeded" for arm in config.arms)


def _warnings(seen: Readiness) -> list[PreflightIssue]:
    found = []
    data, train = seen.data, seen.config.train
    if data is not None:
        if data.train < FEW_PAIRS:
            found.append(PreflightIssue(f"Very few training pairs: {data.train}",
                              f"From about {FEW_PAIRS} on an assistant learns more than a manner of speaking."))
        if data.heldout < FEW_HELDOUT:
            found.append(PreflightIssue(f"The held-out set is small: {data.heldout} answers",
                              f"With fewer than {FEW_HELDOUT} only a gross difference shows. Raise the held-out share, "
                              "or bring more pairs."))
        if data.validation < 2:
            found.append(PreflightIssue("No validation worth the name",
                              "The best checkpoint cannot be told from the last. Raise the validation share."))
        if seen.steps < FEW_STEPS:
            found.append(PreflightIssue(f"Only {seen.steps} training steps", "Raise the epochs, or lower the batch size."))
    if seen.needed_bytes is not None and seen.needed_bytes > seen.free_bytes:
        found.append(PreflightIssue("Training would probably not fit into the free memory",
                          f"Close other programs, lower the micro-batch size ({train.micro_batch_size}) or the longest "
                          f"pair ({train.max_length}), or choose a smaller base model."))
    return found


def plan_of(ref: ModelRef, config: StudyConfig, data: Planned | None) -> Plan | None:
    """Memory and time of both arms on this machine; None where the model's shape would be asked of the hub.

    Args:
        ref: The base model.
        config: The settings.
        data: What is trained on, where that is known.
    """
    if ref.kind == "hub" and ref.entry is None:
        return None
    if data is None:
        return plan_study(config)
    return plan_study(config, data.train, lengths_of(data, config))


def lengths_of(data: Planned, config: StudyConfig) -> Lengths:
    """The lengths of the training pairs as the model gets them, cut at ``train.max_length``."""
    longest = min(math.ceil(data.longest), config.train.max_length)
    return replace(Lengths.about(math.ceil(data.tokens), longest), assumed=False)


def planned_data(study: Study, config: DataConfig) -> Planned | PreflightIssue:
    """What the study trains on: as split, or as these settings would split it; else why not.

    Args:
        study: The study.
        config: Data settings, as they stand on the form.
    """
    split, findings = study.folder / "data" / "split.json", study.folder / "data" / "findings.json"
    if split.exists() and findings.exists() and config == study.config.data:
        record = read_json(split)
        lengths = read_json(findings).get("token_lengths") or {}
        mean, longest = lengths.get("mean") or _TYPICAL_TOKENS, lengths.get("max") or _TYPICAL_TOKENS
        return Planned(record["counts"]["train"], record["counts"]["validation"], record["turns"]["heldout"],
                       float(mean), float(longest))
    if study.source is None:
        return PreflightIssue("The study has lost its data file", "Start a new study from the file.")
    found = _planned(str(study.source), stamp([study.source]), config.model_dump_json())
    return found if isinstance(found, Planned) else PreflightIssue(found["what"], found["remedy"])


@functools.lru_cache(maxsize=32)
def _planned(path: str, seen: str, settings: str) -> Planned | dict[str, Any]:
    """``seen`` is the file's stamp, so that a replaced file is read again."""
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
    answers = sum(pair.turns for pair in split.heldout)
    return Planned(
        len(split.train), len(split.validation), answers, sum(lengths) / max(1, len(lengths)), max(lengths, default=0.0)
    )
