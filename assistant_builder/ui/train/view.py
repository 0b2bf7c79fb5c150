"""Views of a training run: progress, errors, resources, command lines and sample answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assistant_builder.config import ModelConfig
from assistant_builder.i18n import N_, localize, m, render, t
from assistant_builder.i18n.quantities import format_remaining
from assistant_builder.models.catalog import CATALOG
from assistant_builder.models.fetch import download_bytes
from assistant_builder.ui.html import (
    fragment,
    join,
)
from assistant_builder.ui.study_snapshot import (
    ArmSnapshot,
    Snapshot,
    elapsed,
    step_title,
    stopped_step,
    title_of_study,
)
from assistant_builder.ui.train.preflight import TimeRemaining
from evals.report.number_format import count, duration, rate, size


def run_panel(snapshot: Snapshot, log: str, left: TimeRemaining | None = None) -> Markup:
    """State of the run with the end of the log of the step that stopped, if any, and figures of its arms."""
    cards = [
        _arm(snapshot, arm, training)
        for arm, training in snapshot.arms.items()
        if training.points or training.step.state != "queued"
    ]
    arms = fragment("train.arms", cards) if cards else ""
    return join([_headline(snapshot, log, left), arms])


def _headline(snapshot: Snapshot, log: str, left: TimeRemaining | None) -> Markup:
    if snapshot.state == "running":
        return _running(snapshot, left)
    stopped = stopped_step(snapshot)
    return fragment(
        "train.headline",
        state=snapshot.shown_state,
        names=list(map(title_of_study, snapshot.behind)),
        arms=len(snapshot.config.arms),
        touched=snapshot.touched,
        name=step_title(stopped.step) if stopped else t("the run"),
        error=snapshot.error,
        log=log,
    )


def _running(snapshot: Snapshot, left: TimeRemaining | None) -> Markup:
    """The running step, its progress, and the remaining time of the study."""
    record = next((record for record in snapshot.steps if record.state == "running"), None)
    if record is None:
        return Markup("")
    number = [step.step for step in snapshot.steps].index(record.step) + 1
    progress = snapshot.progress.get(record.step)
    shows_progress = progress is not None and not record.step.startswith("train-")
    message = render(progress.text) if progress and shows_progress else ""
    if record.node:
        message += " " + t("(on {node})", node=record.node)
    if left is None:
        remaining = t("The remaining time is shown after the first training steps.")
    elif left.complete:
        remaining = t("About {time} left for the project.", time=format_remaining(left.seconds))
    elif left.seconds:
        remaining = t(
            "About {time} left for the project, plus the scoring.",
            time=format_remaining(left.seconds),
        )
    else:
        remaining = t("The remaining time is shown after the first scores.")
    if left is not None and left.verdict is not None:
        remaining += " " + t(
            "The first verdict in about {time}.", time=format_remaining(left.verdict)
        )
    title = t(
        "Step {number} of {steps}: {step_title}",
        number=number,
        steps=len(snapshot.steps),
        step_title=step_title(record.step),
    )
    meter = progress.done / progress.total if progress and progress.total else None
    return fragment("train.step", title, message, snapshot.dashboard, meter, remaining)


def _arm(snapshot: Snapshot, arm: str, training: ArmSnapshot) -> Markup:
    last, progress = training.last, snapshot.progress.get(training.step.step)
    lines: list[tuple[str, str]] = []
    details: list[tuple[str, str]] = []
    if last is not None:
        steps = {"part": last["step"], "whole": last["steps"]}
        planned = training.points[0]["steps"]
        config, running = snapshot.config, training.step.state == "running"
        early = running and config.grounded and config.train.stop_loss
        if planned > last["steps"]:
            reached = t(
                "{part} of {whole}, instead of {planned}: little is left to learn",
                **steps,
                planned=planned,
            )
        elif early:
            reached = t("{part} of at most {whole}", **steps)
        else:
            reached = t("{part} of {whole}", **steps)
        lines = [(t("Step"), reached)]
        details = [
            (t("Epoch"), localize(f"{last['epoch']:.2f}")),
            (t("Training loss"), localize(f"{last['loss']:.3f}")),
            *_validation(training),
            (t("Speed"), rate(last["tokens_per_second"])),
            (t("Memory"), size(last["memory_bytes"])),
            (t("Learning rate"), localize(f"{last['learning_rate']:.2g}")),
        ]
    if training.step.state == "running":
        left = last.get("eta_seconds") if last else progress.eta_seconds if progress else None
        lines += [(t("Elapsed"), duration(elapsed(training.step))), (t("Left"), duration(left))]
        if last is None:
            lines.append(
                (
                    t("Now"),
                    render(
                        progress.text
                        if progress and progress.message
                        else m("loading the base model")
                    ),
                )
            )
    elif training.step.state == "succeeded":
        lines.append((t("Took"), duration(training.step.seconds)))
    if training.step.node is not None:
        lines.append((t("Node"), training.step.node))
    meter = last["step"] / last["steps"] if last is not None else None
    return fragment("train.arm", arm, training.step.state, meter, lines, details)


def _validation(training: ArmSnapshot) -> list[tuple[str, str]]:
    if not training.validations:
        return [(t("Validation loss"), "–")]
    best = min(training.validations, key=lambda event: float(event["loss"]))
    return [
        (t("Validation loss"), localize(f"{training.validations[-1]['loss']:.3f}")),
        (t("Best so far"), t("{loss:.3f} at step {step}", loss=best["loss"], step=best["step"])),
    ]


def model_note(model: ModelConfig) -> str:
    """Description of a base model, and whether it must be downloaded; empty for a local one outside of the catalog."""
    entry, needed = CATALOG.get(model.base), download_bytes(model)
    download = (
        ""
        if needed == 0
        else t("It is downloaded from the hub first.")
        if needed is None
        else t("It is downloaded from the hub first: {size}.", size=size(needed))
    )
    if entry is None:
        return download
    terms = t("Its terms must be accepted on the hub.") if entry.gated else ""
    about = t(
        "Good for {use}. {parameters} million parameters, licence {licence}.",
        use=t(entry.good_for),
        parameters=count(entry.parameters / 1e6),
        licence=entry.licence,
    )
    return " ".join(filter(None, (about, terms, download)))


_EXPLANATION = N_(
    "Answers to validation questions, never to test questions, at every validation. They illustrate the progress "
    "of training; the evaluation decides."
)


def samples_card(arms: Mapping[str, ArmSnapshot]) -> Markup:
    """The sample answers of the arms by training step, the latest first; empty without answers."""
    questions: dict[int, dict[str, Any]] = {}
    answers: dict[int, dict[int, dict[str, str]]] = {}
    for arm, training in arms.items():
        for event in training.samples:
            questions.setdefault(event["row"], event)
            answers.setdefault(event["row"], {}).setdefault(event["step"], {})[arm] = event[
                "answer"
            ]
    if not questions:
        return Markup("")
    entries = [
        (event["question"], event["reference"], sorted(answers[row].items(), reverse=True))
        for row, event in questions.items()
    ]
    return fragment("train.samples", entries, list(arms), t(_EXPLANATION))
