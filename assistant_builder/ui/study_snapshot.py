"""Read the state of a study from its files, and show its name and steps in the strip above the tabs.

The page polls: :func:`stamp` detects changes without reading the files.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import CELLS, label, plain_order
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, t
from assistant_builder.i18n.quantities import format_remaining
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary, Scores, Step
from assistant_builder.study.steps import STEPS, Progress, StepRecord, insert_shards, split_run
from assistant_builder.ui.html import callout, empty, error_callout, fragment, state_label
from evals.report.conclusion import Conclusion, conclude
from evals.report.number_format import duration
from evals.report.other_words import is_respelled
from evals.report.schema import Report
from evals.report.to_come import to_come_text


def shown_arms(config: StudyConfig) -> tuple[str, ...]:
    """The arms that a study trains, in display order."""
    return plain_order(config.arms)


@dataclass(frozen=True)
class ArmSnapshot:
    """Training of one arm: its step, the events of metrics.jsonl (oldest first), and summary.json after training."""

    step: StepRecord
    points: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any] | None:
        """The latest ``step`` event."""
        return self.points[-1] if self.points else None


@dataclass(frozen=True)
class Snapshot:
    """The state of a study at one moment.

    Attributes:
        error: Record of the error of the failed step or of the run.
        scores: Cell → scores.json.
        behind: The studies ahead in the queue, the next to run first.
        dashboard: URL of the dashboard of the cluster that runs it.
    """

    name: str
    config: StudyConfig
    state: str
    steps: tuple[StepRecord, ...]
    progress: dict[str, Progress]
    error: ErrorRecord | None
    arms: dict[str, ArmSnapshot]
    scores: dict[str, dict[str, Any]]
    report: Report | None
    behind: tuple[str, ...] = ()
    dashboard: str = ""

    def step(self, name: str) -> StepRecord:
        """The record of one step."""
        return next(record for record in self.steps if record.step == name)

    @property
    def running(self) -> bool:
        """Whether the study is running."""
        return self.state == "running"

    @property
    def shown_state(self) -> str:
        """The state on the page, which distinguishes ``waiting`` from ``queued``: never run."""
        return "waiting" if self.behind and self.state == "queued" else self.state

    @property
    def busy(self) -> bool:
        """Whether the study is running or waiting in the queue."""
        return self.shown_state in ("running", "waiting")

    @property
    def first_verdict(self) -> bool:
        """Whether there is a verdict, and more is still to come."""
        return self.report is not None and self.report.to_come != []

    @property
    def touched(self) -> bool:
        """Whether any step has started."""
        return any(record.state != "queued" for record in self.steps)

    @property
    def trained(self) -> bool:
        """Whether all arms are trained."""
        return all(
            self.step(f"train-{arm}").state == "succeeded" for arm in shown_arms(self.config)
        )


def take_snapshot(study: Study) -> Snapshot:
    """Read a study.

    Raises:
        AssistantBuilderError: A file is damaged.
    """
    steps = tuple(study.step(step) for step in study.shown_steps)
    failed = next(
        (record.error for record in steps if record.state == "failed" and record.error), None
    )
    return Snapshot(
        name=study.name,
        config=study.config,
        state=study.state,
        steps=steps,
        progress={
            step.step: found for step in steps if (found := study.progress(step.step)) is not None
        },
        error=failed or (study.run_record() or {}).get("error"),
        arms={arm: _arm(study, arm) for arm in shown_arms(study.config)},
        scores={
            cell: read_json(path, Scores)
            for cell in CELLS
            if (path := study.cell_folder(cell) / "scores.json").exists()
        },
        report=study_report(study),
        behind=tuple(study.queued_behind),
        dashboard=study.dashboard,
    )


def _arm(study: Study, arm: str) -> ArmSnapshot:
    summary = study.arm_folder(arm) / "summary.json"
    return ArmSnapshot(
        study.step(f"train-{arm}"),
        _events(study, arm, "step"),
        _events(study, arm, "validation"),
        read_json(summary, ArmSummary) if summary.exists() else None,
        _events(study, arm, "sample"),
    )


def samples_stamp(study: Study) -> str:
    """A text that changes with the sample answers."""
    samples = [_events(study, arm, "sample") for arm in shown_arms(study.config)]
    return ".".join(f"{len(events)}@{events[-1]['step'] if events else 0}" for events in samples)


def _events(study: Study, arm: str, kind: str) -> list[dict[str, Any]]:
    path = study.arm_folder(arm) / "metrics.jsonl"
    return [event for event in _read_events(path, stamp([path])) if event["event"] == kind]


@functools.lru_cache(maxsize=16)
def _read_events(path: Path, seen: str) -> list[dict[str, Any]]:
    """Lines of a metrics file; ``seen`` is its stamp, which makes an unchanged file a cache hit."""
    return read_jsonl(path, Step)


def study_report(study: Study) -> Report | None:
    """report.json, cached until the file changes; callers must not modify it.

    None as well if it is of an earlier release and lacks what the page shows; “Re-create report” writes a new one.
    """
    path = study.folder / "report.json"
    report = _report(path, stamp([path])) if path.exists() else None
    return report if report is not None and report.model_fields_set >= _SHOWN else None


_SHOWN = {
    "attribution",
    "cells",
    "contrasts",
    "items",
    "primary_metric",
    "resources",
    "seeds",
    "verdict",
}


def report_conclusion(report: Report) -> Conclusion | None:
    """The conclusion of a report; None if it is of a version that lacks the figures."""
    try:
        return conclude(report)
    except (AssistantBuilderError, KeyError, TypeError, ValueError):
        return None


def audience_of_copies(study: Study) -> str:
    """Who can be given copied answers; empty without a report, or where training is shown to be better."""
    path = study.folder / "report.json"
    try:
        return _audience_of_copies(path, stamp([path])) if study_report(study) else ""
    except AssistantBuilderError:  # a damaged report, which other tabs show
        return ""


@functools.lru_cache(maxsize=16)
def _audience_of_copies(path: Path, seen: str) -> str:
    conclusion = report_conclusion(_report(path, seen))
    return conclusion.copied.who if conclusion and conclusion.copied else ""


def recommends_copies(study: Study) -> bool:
    """Whether the report recommends copied answers, because training is not shown to be better."""
    return audience_of_copies(study) not in ("", "nobody")


@functools.lru_cache(maxsize=4)
def _report(path: Path, seen: str) -> Report:
    return Report.load(path)


def stamp(paths: Iterable[Path]) -> str:
    """A text that changes with any of the files."""
    marks = []
    for path in paths:
        try:
            status = path.stat()
            # the inode detects a file that was replaced within one clock tick or after the clock was set back
            marks.append(f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
        except OSError:
            marks.append("-")
    return "/".join(marks)


def study_stamp(study: Study) -> str:
    """A text that changes with everything that :func:`take_snapshot` reads, including processes that have exited."""
    paths = [study.folder / "study.yaml", study.folder / "run.json", study.folder / "report.json"]
    arms: Iterable[str] = ()
    try:
        steps, arms = insert_shards(study.steps, study.shards), study.config.arms
    except AssistantBuilderError:  # the settings are damaged
        steps = STEPS
    for step in steps:
        paths += [study.status_file(step), study.step_folder(step) / f"{step}.progress.json"]
    paths += [
        study.arm_folder(arm) / name for arm in arms for name in ("metrics.jsonl", "summary.json")
    ]
    paths += [study.cell_folder(cell) / "scores.json" for cell in CELLS]
    return f"{study.name}:{state_of(study)}:{stamp(paths)}"


def state_of(study: Study) -> str:
    """The state of the study; ``waiting`` if its run is in the queue, ``damaged`` if its files cannot be read."""
    try:
        state = study.state
        return "waiting" if state == "queued" and study.queued_behind else state
    except (AssistantBuilderError, OSError):
        return "damaged"


def all_trained(study: Study) -> bool:
    """Whether all arms are trained; cheaper than a snapshot."""
    try:
        return all(
            study.step(f"train-{arm}").state == "succeeded" for arm in shown_arms(study.config)
        )
    except AssistantBuilderError:
        return False


def answering_arms(study: Study) -> tuple[str, ...]:
    """The arms that answer in the chat, in display order: none before all are trained, when answers are copied."""
    return shown_arms(study.config) if all_trained(study) else ()


def log_tail(path: Path) -> str:
    """The last 30 lines of a log; empty without the file."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64_000))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.replace("\r", "\n").split("\n")[-30:]).strip("\n")


_TITLES = {
    "data": N_("Check and split"),
    "data-embed": N_("Check test overlap"),
    "evaluate": N_("Evaluate"),
    "formats": N_("Test the files for other programs"),
    "report": N_("Report"),
}
_MARKS = {
    "queued": "○",
    "running": "●",
    "succeeded": "✓",
    "failed": "✕",
    "cancelled": "■",
    "lost": "!",
}


def step_title(step: str) -> str:
    """Title of a step."""
    if step in _TITLES:
        return t(_TITLES[step])
    if step.startswith("score-"):
        return t("Score cells · part {part}", part=step.removeprefix("score-"))
    arm, seed = split_run(step.removeprefix("train-"))
    way = step.partition("+")[2]
    title = (
        t("Train {assistant} with facts", assistant=label(arm))
        if way == "facts"
        else t("Train {assistant} from memory", assistant=label(arm))
        if way == "memory"
        else t("Train {assistant}", assistant=label(arm))
    )
    return title + (t(" · seed {seed}", seed=seed) if seed > 1 else "")


def picker_label(title: str, state: str) -> str:
    """Label of a study in the picker, of its title and state; the script of the address reads the title from it."""
    return f"{title}  ·  {state_label(state)}"


def title_of_study(name: str) -> str:
    """Title of the study with this name; the name if there is none."""
    try:
        return Study.open(name).title
    except AssistantBuilderError:
        return name


def study_strip(snapshot: Snapshot, conclusion: Conclusion | None = None) -> Markup:
    """Name and state; during a run and after one that stopped the steps, after a finished one where to go next.

    ``conclusion`` is that of the report of a finished study, whose state says if the assistant is not good enough.
    """
    enough = snapshot.state != "succeeded" or conclusion is None or conclusion.ready
    go, places = t("Next:"), []
    if snapshot.state == "succeeded":
        go = t("Ready:") if enough else go
        places = [
            ("evaluate", t("See the results")),
            ("chat", t("Chat with it")),
            ("export", t("Use it")),
        ]
    elif snapshot.first_verdict:
        go = t("First verdict:")
        places = [("evaluate", t("See the results")), ("chat", t("Chat with it"))]
    else:
        untouched = snapshot.shown_state == "queued" and not snapshot.touched
        places = [("train", t("Train it"))] if untouched else []
        ask = t("Chat with it") if snapshot.trained else t("Ask it now: looked up, not trained")
        places.append(("chat", ask))
        places.append(("export", t("Put it on a website")))
    stopped_or_running = snapshot.state != "succeeded" and (snapshot.touched or snapshot.busy)
    steps = [_step(snapshot, record) for record in snapshot.steps] if stopped_or_running else []
    name, state = snapshot.config.shown_name, snapshot.shown_state
    return fragment("strip.study", name, enough, state, go, places, steps)


def _step(snapshot: Snapshot, record: StepRecord) -> tuple[str, str, str, str, float | None]:
    """State, mark, title, note and share that is done of a step."""
    note = {"succeeded": duration(record.seconds), "queued": ""}.get(
        record.state, state_label(record.state)
    )
    fraction, progress = None, snapshot.progress.get(record.step)
    if record.state == "running" and progress is not None and progress.total:
        fraction = progress.done / progress.total
        note = f"{100 * fraction:.0f} %"
        if progress.verdict_seconds is not None:
            note += " · " + t(
                "first verdict in {time}", time=format_remaining(progress.verdict_seconds)
            )
        elif progress.eta_seconds is not None:
            note += " · " + t("{time} left", time=format_remaining(progress.eta_seconds))
    return record.state, _MARKS[record.state], step_title(record.step), note, fraction


def stopped_step(snapshot: Snapshot) -> StepRecord | None:
    """The step that failed, was cancelled or lost."""
    return next(
        (record for record in snapshot.steps if record.state in ("failed", "cancelled", "lost")),
        None,
    )


def elapsed(record: StepRecord) -> float:
    """Seconds since the start of a running step, or the duration of a finished one."""
    if record.state == "running" and record.started is not None:
        return max(record.seconds, time.time() - record.started)
    return record.seconds


def first_verdict(snapshot: Snapshot) -> Markup:
    """That the verdict is there, and what is still to come; empty before it and for a final report."""
    text = to_come_text(snapshot.report) if snapshot.report else ""
    if text and snapshot.report and is_respelled(snapshot.report):
        return callout("info", t("The first figures are there"), text)
    return callout("good", t("The verdict is there"), text) if text else Markup("")


def new_study_strip() -> Markup:
    """The strip of a new study."""
    about = t(
        "Upload your questions and answers. Two assistants are trained on them, a full and a compact one, and "
        "tested."
    )
    return fragment("strip.simple", t("New project"), "", about)


def damaged_strip(name: str, error: ErrorRecord) -> Markup:
    """The strip of a study whose files cannot be read."""
    return fragment("strip.simple", name, error_callout(error))


def needs_study(what: str) -> Markup:
    """The placeholder of a tab without a study."""
    return empty(
        t("No project chosen"),
        t("{what} Choose a project above, or create one on the Data tab.", what=what),
    )
