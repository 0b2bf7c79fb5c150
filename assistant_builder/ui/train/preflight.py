"""Preflight checks of a study: the data, steps, memory and time of a run, and what forbids or advises against it.

Errors prevent a start, warnings do not. No gradio, no model.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from assistant_builder.atomic_io import read_json
from assistant_builder.config import (
    BY_HEART,
    PRESET_LABELS,
    DataConfig,
    StudyConfig,
)
from assistant_builder.data import Split
from assistant_builder.data.check_messages import too_long_words
from assistant_builder.data.wordings import ADDED_LATER, WordingCount, count_wordings
from assistant_builder.errors import AssistantBuilderError, ModelError
from assistant_builder.export_formats import file_to_train_for
from assistant_builder.i18n import language, render, t, tn
from assistant_builder.models.catalog import resolve
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import (
    download_bytes,
    local_model_folder,
    needs_embedder_download,
)
from assistant_builder.models.hub import HubStatus, available_models_sentence, check_hub
from assistant_builder.models.remote_code import allows_code
from assistant_builder.planning.hardware import this_machine
from assistant_builder.planning.memory_check import refusal
from assistant_builder.planning.plan import Lengths, Plan, plan_study
from assistant_builder.retrieval.augment import repetitions
from assistant_builder.retrieval.grounding import row_limit
from assistant_builder.study import Study
from assistant_builder.study.contents import Findings, Provenance
from assistant_builder.study.contents import Split as SplitFile
from assistant_builder.study.steps import FORMATS, evaluates
from assistant_builder.training.schedule import total_steps
from assistant_builder.training.sequences import MOST_LEFT_OUT
from assistant_builder.ui.data.preview import inspect_file, preview_split, rows_too_long
from assistant_builder.ui.study_snapshot import Snapshot, stamp, study_report
from evals.report.number_format import size
from evals.work_items import first_cells

FEW_PAIRS = 50
"""Training pairs below which an assistant learns the style of the answers and few of their facts."""
FEW_HELDOUT = 30
"""Held-out answers below which only a large difference between the assistants can be detected."""
FEW_STEPS = 10
_HUB_SECONDS, _HUB_WAIT = 60.0, 3.0
"""How often the hub is asked whether it responds, and how long an answer is waited for."""
_FILE_CELLS = 3.0
"""Time of writing and scoring a GGUF file, in that of scoring a cell."""
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
        data: Size of the data; None if it cannot be used.
        steps: Optimizer steps of an arm.
        plan: Memory and time of the arms; None if the model's architecture is unknown without a request to the hub.
        scoring: Measured scoring time in seconds per held-out answer and cell; None without an earlier run.
        wordings: Facts and wordings of the split; None if it is not known.
        losing: Type of a GGUF file that was worse in the last run, and that an assistant can be trained for.
        too_long: Title and remedy of the rows that training leaves out because of their length; None without any.
    """

    config: StudyConfig
    data: DataEstimate | None
    steps: int
    plan: Plan | None
    scoring: float | None
    free_bytes: int
    errors: tuple[PreflightIssue, ...] = ()
    warnings: tuple[PreflightIssue, ...] = ()
    wordings: WordingCount | None = None
    losing: str | None = None
    too_long: PreflightIssue | None = None

    @property
    def training_seconds(self) -> float | None:
        """Training time of all arms and seeds, one after the other."""
        arms = self.plan.arms if self.plan and self.data else []
        seconds = [arm.seconds for arm in arms if arm.seconds is not None]
        complete = arms and len(seconds) == len(arms)
        return self.config.seeds * sum(seconds) if complete else None

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
        plan = make_plan(config, data)
    except AssistantBuilderError as error:
        errors.append(_issue_of(error))
    too_long = None
    try:
        rows = rows_too_long(study.source, config) if study.source is not None else {}
    except ModelError as error:
        errors.append(_issue_of(error))
    else:
        too_long = _too_long_issue(rows, config) if rows else None
        if (
            data is not None
            and too_long
            and len(rows) > MOST_LEFT_OUT * (data.train + data.validation + data.heldout)
        ):
            errors.append(too_long)
    if isinstance(estimated, PreflightIssue):
        errors.append(estimated)
    errors += _download_issues(config)
    local = config.executor.kind == "local"  # on a cluster the run checks the memory of the nodes
    now = study.config
    trains = (config.train, config.model) != (now.train, now.model) or any(
        study.step(f"train-{arm}").state != "succeeded" for arm in config.arms
    )  # else it only scores and reports
    refused = refusal(plan) if plan is not None and local and trains else None
    if refused is not None:
        errors.append(_issue_of(refused))
    steps = total_steps(config.train, training_rows(data, config)) if data else 0
    result = PreflightResult(
        config=config,
        data=data,
        steps=steps,
        plan=plan,
        scoring=scoring_seconds(config.model.base),
        free_bytes=this_machine().free_bytes,
        errors=tuple(errors),
        wordings=_wordings(study, config.data),
        losing=file_to_train_for(study_report(study), config.arms),
        too_long=too_long,
    )
    return replace(result, warnings=tuple(_warnings(result)))


def _issue_of(error: AssistantBuilderError) -> PreflightIssue:
    return PreflightIssue(render(error.what), render(error.remedy))


def _too_long_issue(rows: Mapping[int, int], config: StudyConfig) -> PreflightIssue:
    """The rows (→ tokens) that training leaves out, and the limit that would keep them."""
    folder = local_model_folder(config.model)
    assert folder is not None  # else no row was measured
    words = too_long_words(rows, row_limit(config.train.max_length, context_length(folder)))
    return PreflightIssue(*map(render, words))


def _download_issues(config: StudyConfig) -> list[PreflightIssue]:
    """The errors that base model or embedder must be downloaded and the hub does not respond."""
    needed, embedder = download_bytes(config.model), config.retrieval.embedder
    missing = (
        {} if needed == 0 else {config.model.base: "" if needed is None else f" ({size(needed)})"}
    )
    missing |= {embedder: ""} if needs_embedder_download(embedder) else {}
    if not missing or (status := _hub_status(int(time.monotonic() / _HUB_SECONDS))).ok:
        return []
    return [
        PreflightIssue(
            t(
                "{model} is not on this computer, and the model hub cannot be reached to download it{amount}",
                model=model,
                amount=amount,
            ),
            t(
                "Connect to the internet, or choose another base model ({why}). {available}.",
                why=status.why,
                available=available_models_sentence(),
            )
            if model == config.model.base
            else t(
                "Connect to the internet, or leave the sentence embedder empty ({why}).",
                why=status.why,
            ),
        )
        for model, amount in missing.items()
    ]


@functools.lru_cache(maxsize=1)
def _hub_status(tick: int) -> HubStatus:
    """Whether the hub responds, asked once in :data:`_HUB_SECONDS`."""
    return check_hub(_HUB_WAIT)


def run_seconds(study: Study, config: StudyConfig) -> TimeRemaining | None:
    """Estimated time of a run with these settings; None if the time of training is not known."""
    data = estimate_data(study, config.data)
    if not isinstance(data, DataEstimate):
        return None
    plan = make_plan(config, data)
    result = PreflightResult(config, data, 0, plan, scoring_seconds(config.model.base), 0)
    if result.training_seconds is None:
        return None
    scoring = result.scoring_seconds
    return TimeRemaining(result.training_seconds + (scoring or 0.0), scoring is not None)


def _warnings(result: PreflightResult) -> Iterator[PreflightIssue]:
    config, data, train = result.config, result.data, result.config.train
    once = result.wordings if data is not None else None
    if result.too_long:
        yield result.too_long
    if needs_embedder_download(embedder := config.retrieval.embedder):
        yield PreflightIssue(
            t("The sentence embedder {model} is not on this computer", model=embedder),
            t("The run downloads it from the model hub."),
        )
    if once is not None and once.occurs_once and once.remedy:
        later = once.holds_facts_out and config.grounded and config.retrieval.final_index
        edit = t("On the Data tab, press “Edit a copy for a new project”.")
        texts = (once.meaning, t(ADDED_LATER) if later else "", once.remedy, edit)
        yield PreflightIssue(once.title, " ".join(filter(None, texts)))
    if once is not None and once.occurs_once and not config.grounded and train.preset != BY_HEART:
        yield PreflightIssue(
            t("The assistant will not know these answers by heart"),
            t(
                "Choose the preset “{preset}”, or let it look facts up: choose “grounded” under Advanced → Approach.",
                preset=t(PRESET_LABELS[BY_HEART][0]),
            ),
        )
    if data is not None and data.train < FEW_PAIRS:
        why = t("The assistant can look few facts up, and a test on so few questions says little.")
        if not config.grounded:
            why = t(
                "With fewer than {few_pairs} pairs an assistant learns the style of the answers but few facts.",
                few_pairs=FEW_PAIRS,
            )
        yield PreflightIssue(t("Very few training pairs: {number}", number=data.train), why)
    if data is not None and data.heldout < FEW_HELDOUT:
        yield PreflightIssue(
            tn(
                "The test is small: {count} question",
                "The test is small: {count} questions",
                data.heldout,
            ),
            t(
                "With fewer than {few_heldout} questions only a large difference can be detected. Raise “Test "
                "share”, or add more pairs.",
                few_heldout=FEW_HELDOUT,
            ),
        )
    if data is not None and data.validation < 2:
        yield PreflightIssue(
            t("The validation set has fewer than 2 pairs"),
            t(
                "The best checkpoint cannot be selected without validation. Raise the validation share."
            ),
        )
    if data is not None and result.steps < FEW_STEPS:
        yield PreflightIssue(
            t("Only {steps} training steps", steps=result.steps),
            t("Raise the number of epochs, or lower the batch size."),
        )
    if result.needed_bytes is not None and result.needed_bytes > result.free_bytes:
        yield PreflightIssue(
            t("Training will probably not fit into the free memory"),
            t(
                "Close other programs, lower the micro-batch size ({micro_batch_size}) or the maximum length of a "
                "pair ({max_length}), or choose a smaller base model.",
                micro_batch_size=train.micro_batch,
                max_length=result.plan.max_length if result.plan else train.max_length,
            ),
        )


def make_plan(config: StudyConfig, data: DataEstimate | None) -> Plan | None:
    """Plan the arms on this machine; None if the model's architecture is unknown without a request to the hub."""
    ref = resolve(config.model.base, trust_remote_code=allows_code(config.model))
    if ref.kind == "hub" and ref.entry is None:
        return None
    if data is None:
        return plan_study(config)
    return plan_study(config, data.train, lengths_of(data, config))


def training_rows(data: DataEstimate, config: StudyConfig) -> int:
    """Training rows of an epoch: small data are repeated in the grounded approach."""
    return data.train * (repetitions(data.train) if config.grounded else 1)


def lengths_of(data: DataEstimate, config: StudyConfig) -> Lengths:
    """Lengths of the training pairs with the facts in their prompts, at most ``train.max_length``."""
    facts, limit = config.retrieval.facts if config.grounded else 0, config.train.max_length
    typical, longest = (
        math.ceil(tokens) if limit == "auto" else min(math.ceil(tokens), limit)
        for tokens in (data.tokens * (1 + facts), data.longest + data.tokens * facts)
    )
    return replace(Lengths.about(typical, longest), assumed=False)


def estimate_data(study: Study, config: DataConfig) -> DataEstimate | PreflightIssue:
    """Size of the study's split, or of the split that other data settings would make; an issue if there is none."""
    findings = study.folder / "data" / "findings.json"
    if _is_split(study, config) and findings.exists():
        record = read_json(study.folder / "data" / "split.json", SplitFile)
        lengths = read_json(findings, Findings).get("token_lengths") or {}
        mean, longest = (
            lengths.get("mean") or _TYPICAL_TOKENS,
            lengths.get("max") or _TYPICAL_TOKENS,
        )
        return DataEstimate(
            record["counts"]["train"],
            record["counts"]["validation"],
            record["turns"]["heldout"],
            float(mean),
            float(longest),
        )
    if study.source is None:
        return PreflightIssue(
            t("The project's data file is missing"), t("Create a new project from the file.")
        )
    return _estimate_from_file(*_file_key(study.source, config))


def _is_split(study: Study, config: DataConfig) -> bool:
    """Whether the study's data are split with these settings."""
    return (study.folder / "data" / "split.json").exists() and config == study.config.data


def _file_key(source: Path, config: DataConfig) -> tuple[str, str, str, str]:
    """What a result from the data file depends on: a file that was replaced has another stamp."""
    return str(source), stamp([source]), config.model_dump_json(), language()


@functools.lru_cache(maxsize=32)
def _estimate_from_file(*key: str) -> DataEstimate | PreflightIssue:
    split = _split_of_file(*key)
    if isinstance(split, PreflightIssue):
        return split
    lengths = [
        sum(len(message.content) for message in pair.messages) / _CHARACTERS_A_TOKEN
        + _TEMPLATE_TOKENS
        for pair in split.train
    ]
    return DataEstimate(
        len(split.train),
        len(split.validation),
        sum(pair.turns for pair in split.heldout),
        sum(lengths) / max(1, len(lengths)),
        max(lengths, default=0.0),
    )


@functools.lru_cache(maxsize=4)
def _split_of_file(path: str, version: str, settings: str, language: str) -> Split | PreflightIssue:
    config = DataConfig.model_validate(json.loads(settings))
    inspected = inspect_file(Path(path), config.columns)
    found = preview_split(inspected.findings, config) if inspected.findings else inspected.error
    if found is None:
        return PreflightIssue(t("The data file cannot be read"), t("See the Data tab."))
    return found if isinstance(found, Split) else PreflightIssue(found["what"], found["remedy"])


def _wordings(study: Study, config: DataConfig) -> WordingCount | None:
    if _is_split(study, config):
        return count_wordings(read_json(study.folder / "data" / "split.json", SplitFile))
    if study.source is None:
        return None
    split = _split_of_file(*_file_key(study.source, config))
    return count_wordings(split.to_record()) if isinstance(split, Split) else None


def serves_by_heart(study: Study, config: StudyConfig) -> bool:
    """Whether the preset for answers that occur once suits a study."""
    try:
        counted = None if config.grounded else _wordings(study, config.data)
    except (AssistantBuilderError, OSError, KeyError):  # the Data tab reports a damaged split
        return False
    return counted is not None and counted.occurs_once


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
    if (
        not provenance.exists()
        or study.step("evaluate").state != "succeeded"
        or study.config.model.base != base
    ):
        return None
    hardware = read_json(provenance, Provenance)["hardware"]
    if (hardware["cores"], hardware["memory_bytes"]) != (
        os.cpu_count(),
        psutil.virtual_memory().total,
    ):
        return None
    answers = read_json(study.folder / "data" / "split.json", SplitFile)["turns"]["heldout"]
    seconds = sum(
        study.step(step).seconds
        for step in study.shown_steps
        if evaluates(step) and step != FORMATS
    )
    return seconds / (answers * len(study.config.cells))


@dataclass(frozen=True)
class TimeRemaining:
    """Estimated remaining time of the steps whose time is known; scoring takes more if these are not ``complete``.

    ``verdict`` is that until the first verdict; None if it is there, or not known.
    """

    seconds: float
    complete: bool
    verdict: float | None = None


def time_left(snapshot: Snapshot, scoring: float | None, answers: int) -> TimeRemaining | None:
    """Remaining time of a running study; None until its first training has one.

    An arm that has not started is assumed to need as long as the other arm. ``scoring`` is the time in seconds per
    held-out answer and cell, if known.
    """
    done = [
        arm.summary["train_seconds"] for arm in snapshot.arms.values() if arm.summary is not None
    ]
    running = [
        arm.last["elapsed_seconds"] + arm.last["eta_seconds"]
        for arm in snapshot.arms.values()
        if arm.last is not None and "eta_seconds" in arm.last
    ]
    seconds, complete, arm_seconds = 0.0, True, max(done or running, default=None)
    verdict: float | None = None
    shards = sum(
        record.step.startswith("score-") for record in snapshot.steps
    )  # with shards the evaluation is short
    short = {"data", "data-embed", "report", *(["evaluate"] if shards else [])}
    for record in snapshot.steps:
        progress = snapshot.progress.get(record.step)
        if record.state == "succeeded" or record.step in short:
            continue
        if record.step == "evaluate" and not shards:
            first = len(first_cells(snapshot.config.arms))
            verdict = None if scoring is None else seconds + scoring * answers * first
            if record.state == "running":
                verdict = None if progress is None else progress.verdict_seconds
        if record.state == "running" and progress is not None and progress.eta_seconds is not None:
            seconds += progress.eta_seconds
        elif record.step.startswith("train-"):
            if arm_seconds is None:
                return None
            seconds += arm_seconds
        elif scoring is not None and record.step == FORMATS:
            files = sum(len(snapshot.config.file_types(arm)) for arm in snapshot.config.arms)
            seconds += _FILE_CELLS * scoring * answers * files
        elif scoring is not None:
            seconds += scoring * answers * len(snapshot.config.cells) / (shards or 1)
        else:
            complete = False
    return TimeRemaining(seconds, complete, verdict)
