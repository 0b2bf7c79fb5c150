"""Training as it goes: the arms' figures, what went wrong, what would be run.

What both assistants answer to a few validation questions as they train, beside the reference.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import label
from assistant_builder.config import StudyConfig, read_value
from assistant_builder.errors import ConfigError
from assistant_builder.models.catalog import CATALOG
from assistant_builder.ui.html import (
    arm_chip,
    assistants,
    badge,
    bar,
    callout,
    card,
    code,
    empty,
    error_callout,
    fold,
    join,
    link,
    table,
)
from assistant_builder.ui.settings_form import flat
from assistant_builder.ui.study_snapshot import ArmSnapshot, Snapshot, elapsed, step_title, stopped_step
from assistant_builder.ui.train.eta import TimeRemaining
from evals.report.format import count, duration, percent, rate, size


def run_panel(snapshot: Snapshot, log: str, left: TimeRemaining | None = None) -> Markup:
    """Where the run stands.

    Args:
        snapshot: The study.
        log: The end of the log of the step that stopped, if one did.
        left: How long a running study still takes, where that can be told.
    """
    return join([_headline(snapshot, log, left), _arms(snapshot)])


def _headline(snapshot: Snapshot, log: str, left: TimeRemaining | None) -> Markup:
    stopped = stopped_step(snapshot)
    if snapshot.shown_state == "waiting":
        return _waiting(snapshot)
    if snapshot.state == "queued":
        count = len(snapshot.config.arms)
        return empty("Not trained yet", "Choose a base model and a preset, then press Start. " + (
            f"{assistants(count).capitalize()} are trained one after the other, then scored and reported."
            if count > 1 else
            "The assistant is trained, then scored and reported."))
    if snapshot.state == "running":
        return _running(snapshot, left)
    if snapshot.state == "failed":
        name = step_title(stopped.step) if stopped else "the run"
        record = snapshot.error or {"what": f"{name} failed", "remedy": "The log below says more"}
        return join([error_callout(record), fold(f"Log of “{name}”", code(log), opened=True) if log else ""])
    if snapshot.state == "lost":
        return join([
            callout("warn", "The run was interrupted", "Its process is gone: the computer was restarted, or memory ran "
                    "out and the system ended it.", "Press “Carry on”: it continues from the last checkpoint."),
            fold("End of its log", code(log)) if log else "",
        ])
    if snapshot.state == "cancelled":
        if not snapshot.touched:
            return callout("info", "Taken out of the queue before it began", "Nothing was run and nothing is lost.",
                           "Press “Carry on” to queue again.")
        return callout("warn", "Paused", "Everything is kept, the last optimizer step included. Carried on, the run "
                       "ends with the same assistants, bit for bit, as one that was never paused.",
                       "Press “Carry on” whenever you like, also after a restart of the computer.")
    return Markup("")


def _waiting(snapshot: Snapshot) -> Markup:
    first, *more = snapshot.behind
    line = f"Study {first} is running." + (f" Then {', '.join(more)}." if more else "")
    return callout(
        "info", f"Waiting for its turn: number {len(snapshot.behind)} in the queue",
        f"{line} This study starts by itself, also when this page is closed.",
        "To run both at once, which slows both down: leave the queue, tick “Do not wait”, and press Start.",
    )


def _running(snapshot: Snapshot, left: TimeRemaining | None) -> Markup:
    """The step at hand, and how long the whole still takes."""
    record = next((record for record in snapshot.steps if record.state == "running"), None)
    if record is None:
        return Markup("")
    number = [step.step for step in snapshot.steps].index(record.step) + 1
    progress = snapshot.progress.get(record.step)
    said = progress.message if progress and progress.message and not record.step.startswith("train-") else ""
    said += f" (on {record.node})" if record.node else ""
    rest = "The time left shows once training has begun." if left is None else (
        f"About {duration(left.seconds)} left for the whole study" + ("." if left.whole else ", and scoring on top.")
    )
    meter = bar(progress.done / progress.total, step_title(record.step)) if progress and progress.total else ""
    title = f"Step {number} of {len(snapshot.steps)}: {step_title(record.step)}"
    cluster = link(snapshot.dashboard, "The cluster’s dashboard")
    return Markup('<section class="ab-card ab-now"><strong>{}</strong><span>{} {}</span>{}<p>{}</p></section>').format(
        title, said, cluster, meter, rest
    )


def _arms(snapshot: Snapshot) -> Markup:
    shown = {arm: seen for arm, seen in snapshot.arms.items() if seen.points or seen.step.state != "queued"}
    if not shown:
        return Markup("")
    cards = join(_arm(snapshot, arm, seen) for arm, seen in shown.items())
    return Markup('<div class="ab-arms">{}</div>').format(cards)


def _arm(snapshot: Snapshot, arm: str, seen: ArmSnapshot) -> Markup:
    last = seen.last
    progress = snapshot.progress.get(seen.step.step)
    lines: list[tuple[str, str]] = []
    meter = Markup("")
    if last is not None:
        meter = bar(last["step"] / last["steps"], label(arm))
        lines = [
            ("Step", f"{last['step']} of {last['steps']}"),
            ("Epoch", f"{last['epoch']:.2f}"),
            ("Training loss", f"{last['loss']:.3f}"),
            *_validation(seen),
            ("Speed", rate(last["tokens_per_second"])),
            ("Memory", size(last["memory_bytes"])),
            ("Learning rate", f"{last['learning_rate']:.2g}"),
        ]
    if seen.step.state == "running":
        left = last.get("eta_seconds") if last else progress.eta_seconds if progress else None
        lines += [("Elapsed", duration(elapsed(seen.step))), ("Left", duration(left))]
        if last is None:
            lines.append(("Now", progress.message if progress and progress.message else "loading the base model"))
    elif seen.step.state == "succeeded":
        lines.append(("Took", duration(seen.step.seconds)))
    if seen.step.node is not None:
        lines.append(("Node", seen.step.node))
    rows = join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in lines)
    return Markup('<section class="ab-card ab-arm ab-arm-{}"><header>{}{}</header>{}<dl>{}</dl></section>').format(
        arm, arm_chip(arm), badge(seen.step.state), meter, rows
    )


def _validation(seen: ArmSnapshot) -> list[tuple[str, str]]:
    if not seen.validations:
        return [("Validation loss", "–")]
    best = min(seen.validations, key=lambda event: float(event["loss"]))
    return [
        ("Validation loss", f"{seen.validations[-1]['loss']:.3f}"),
        ("Best so far", f"{best['loss']:.3f} at step {best['step']}"),
    ]


def model_note(name: str) -> str:
    """What is known of a base model of the catalog; empty for any other."""
    entry = CATALOG.get(name)
    if entry is None:
        return ""
    terms = " (its terms must be accepted on the hub)" if entry.gated else ""
    return (
        f"Good for {entry.good_for}. {count(entry.parameters / 1e6)} million parameters, {count(entry.context_length)} "
        f"tokens of context, licence {entry.licence}{terms}."
    )


def resources_table(snapshot: Snapshot) -> Markup:
    """What each trained arm took; empty until one is trained."""
    rows = [
        (
            arm_chip(arm), size(done["base_bytes"]), size(done["adapter_bytes"]), size(done["peak_memory_bytes"]),
            duration(done["train_seconds"]), rate(done["tokens_per_second"]),
            f"{count(done['trainable_parameters'])} ({_share(done)})", done["compute_dtype"],
        )
        for arm, seen in snapshot.arms.items()
        if (done := seen.summary) is not None
    ]
    if not rows:
        return Markup("")
    headers = ("", "Base", "Adapter", "Peak memory", "Time", "Speed", "Trained parameters", "Arithmetic")
    return table(headers, rows, numeric=range(1, 7))


def _share(done: Mapping[str, Any]) -> str:
    return percent(done["trainable_parameters"] / done["total_parameters"])


def command_lines(
    name: str, config: StudyConfig, *, source: str = "", redo: bool = False, now: bool = False, trust: bool = False,
) -> str:
    """What the button runs, and the one command that gives the same from the data file alone.

    Args:
        name: The study.
        config: The settings on the form.
        source: Name of the data file.
        redo: Whether finished steps are run again.
        now: Whether other studies are not waited for.
        trust: Whether the base model's own code is allowed.
    """
    trusted = ["--trust-remote-code"] if trust else []
    flags = [*(["--redo"] if redo else []), *(["--now"] if now else []), *trusted]
    button = shlex.join(["assistant-builder", "run", name, *flags])
    whole = ["assistant-builder", "run", source or "FILE", "--name", name, *_settings(config), *trusted]
    return f"{button}\n\n# the same from the file alone\n{shlex.join(whole)}"


def _settings(config: StudyConfig) -> list[str]:
    """``--set`` for everything that is not what the defaults and the preset make it."""
    usual = flat(StudyConfig().with_changes({"train.preset": config.train.preset}))
    usual["train.preset"] = StudyConfig().train.preset
    arguments: list[str] = []
    for key, value in flat(config).items():
        if key in ("name", "data.source") or value == usual[key]:
            continue
        if isinstance(value, dict):
            pairs = [(f"{key}.{role}", column) for role, column in value.items()]
        else:
            pairs = [(key, value)]
        for dotted, item in pairs:
            arguments += ["--set", f"{dotted}={_yaml(dotted, item)}"]
    return arguments


def _yaml(key: str, value: Any) -> str:
    """The text that ``--set`` reads as this very value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    text = str(value)
    if not isinstance(value, str):
        return text
    try:
        plain = read_value(key, text) == text
    except ConfigError:  # no YAML as it stands
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)


def refused_changes(changes: Sequence[str]) -> Markup:
    """Why Start does not touch a study that has results."""
    return join([
        callout(
            "warn", "This study already has results made with other settings",
            remedy="Save the settings as a new study, or tick “Replace results” to run the changed steps again.",
        ),
        code("\n".join(changes)),
    ])


_EXPLANATION = (
    "Validation questions, never held-out ones, answered at every validation. They only show how training gets on: "
    "what decides is the evaluation."
)


def samples_card(arms: Mapping[str, ArmSnapshot]) -> Markup:
    """The answers of both arms over the steps, the latest first; empty until there is one.

    Args:
        arms: Arm → its training so far.
    """
    asked: dict[int, dict[str, Any]] = {}
    answers: dict[int, dict[int, dict[str, str]]] = {}
    for arm, seen in arms.items():
        for event in seen.samples:
            asked.setdefault(event["row"], event)
            answers.setdefault(event["row"], {}).setdefault(event["step"], {})[arm] = event["answer"]
    if not asked:
        return Markup("")
    folds = [
        fold(_title(event["question"]), _question(event, answers[row], list(arms)), opened=place == 0)
        for place, (row, event) in enumerate(asked.items())
    ]
    return card("Sample answers", Markup('<p class="ab-ready-note">{}</p>').format(_EXPLANATION), *folds)


def _title(question: str) -> Markup:
    return Markup('<bdi dir="auto">{}</bdi>').format(question)


def _question(event: Mapping[str, Any], by_step: Mapping[int, Mapping[str, str]], arms: list[str]) -> Markup:
    reference = Markup('<p class="ab-sample-ref"><b>Reference</b> <bdi dir="auto">{}</bdi></p>').format(
        event["reference"]
    )
    return join([reference, *(_step(step, by_step[step], arms) for step in sorted(by_step, reverse=True))])


def _step(step: int, answers: Mapping[str, str], arms: list[str]) -> Markup:
    cells = join(
        Markup('<div class="ab-sample ab-arm-{}">{}<p dir="auto">{}</p></div>').format(
            arm, arm_chip(arm), answers[arm] or Markup("<i>(nothing)</i>")
        )
        if arm in answers else
        Markup('<div class="ab-sample ab-arm-{}">{}<p class="ab-none">not there yet</p></div>').format(
            arm, arm_chip(arm)
        )
        for arm in arms
    )
    return Markup('<h4>After step {}</h4><div class="ab-samples">{}</div>').format(step, cells)
