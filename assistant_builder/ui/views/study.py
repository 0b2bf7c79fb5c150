"""The study as a whole: its name, state and steps."""

from __future__ import annotations

import time

from markupsafe import Markup

from assistant_builder.steps import StepRecord, split_run
from assistant_builder.ui.markup import STATE_WORDS, badge, bar, empty, error_callout, join
from assistant_builder.ui.snapshots import Snapshot
from evals.report.wording import duration

_TITLES = {"data": "Check and split", "data-embed": "Find leaks", "evaluate": "Evaluate", "report": "Report"}
_ARM_TITLES = {"lora": "Train LoRA · 16-bit", "qlora": "Train QLoRA · 4-bit"}
_MARKS = {"queued": "○", "running": "●", "succeeded": "✓", "failed": "✕", "cancelled": "■", "lost": "!"}


def step_title(step: str) -> str:
    """What the page calls a step."""
    if step in _TITLES:
        return _TITLES[step]
    if step.startswith("score-"):
        return f"Score cells · part {step.removeprefix('score-')}"
    arm, seed = split_run(step.removeprefix("train-"))
    return _ARM_TITLES[arm] + (f" · seed {seed}" if seed > 1 else "")


def picker_label(name: str, state: str) -> str:
    """How a study stands in the list of studies."""
    return f"{name}  ·  {STATE_WORDS.get(state, state)}"


def study_strip(snapshot: Snapshot) -> Markup:
    """Name, state, and every step with its state, time and progress."""
    steps = join(_step(snapshot, record) for record in snapshot.steps)
    return Markup(
        '<div class="ab-strip"><div class="ab-strip-head"><h2>{}</h2>{}</div><ol class="ab-steps">{}</ol></div>'
    ).format(snapshot.name, badge(snapshot.shown_state), steps)


def _step(snapshot: Snapshot, record: StepRecord) -> Markup:
    note = {"succeeded": duration(record.seconds), "queued": ""}.get(record.state, STATE_WORDS[record.state])
    meter = Markup("")
    progress = snapshot.progress.get(record.step)
    if record.state == "running" and progress is not None and progress.total:
        fraction = progress.done / progress.total
        meter = bar(fraction, step_title(record.step))
        note = f"{100 * fraction:.0f} %"
        if progress.eta_seconds is not None:
            note += f" · {duration(progress.eta_seconds)} left"
    return Markup(
        '<li class="ab-step ab-{}"><i aria-hidden="true">{}</i><div><b>{}</b><small>{}</small>{}</div></li>'
    ).format(record.state, _MARKS[record.state], step_title(record.step), note, meter)


def running_step(snapshot: Snapshot) -> StepRecord | None:
    """The step that runs now."""
    return next((record for record in snapshot.steps if record.state == "running"), None)


def stopped_step(snapshot: Snapshot) -> StepRecord | None:
    """The step at which the run came to a stop."""
    return next((record for record in snapshot.steps if record.state in ("failed", "cancelled", "lost")), None)


def elapsed(record: StepRecord) -> float:
    """Seconds since a running step was started, or what a finished one took."""
    if record.state == "running" and record.started is not None:
        return max(record.seconds, time.time() - record.started)
    return record.seconds


def no_study() -> Markup:
    """What the strip shows while a new study is being made."""
    return Markup(
        '<div class="ab-strip"><div class="ab-strip-head"><h2>New study</h2></div>'
        "<p>Bring a question–answer file. Two assistants are trained on it, one over a 4-bit base and one over a "
        "16-bit base, and compared on questions that neither has seen.</p></div>"
    )


def damaged(name: str, error: dict[str, str]) -> Markup:
    """A study whose files cannot be read."""
    return Markup('<div class="ab-strip"><div class="ab-strip-head"><h2>{}</h2></div>{}</div>').format(
        name, error_callout(error)
    )


def needs_study(what: str) -> Markup:
    """An empty tab when no study is chosen."""
    return empty("No study chosen", f"{what} Choose a study above, or make one on the Data tab.")
