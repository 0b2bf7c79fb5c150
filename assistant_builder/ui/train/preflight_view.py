"""Views of the preflight checks: the card of a start, the presets, and estimated times."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.arms import QAT, TWINS, label
from assistant_builder.config import StudyConfig
from assistant_builder.i18n import t, tn
from assistant_builder.ui.html import callout, fragment
from assistant_builder.ui.settings_form import study_options
from assistant_builder.ui.study_snapshot import title_of_study
from assistant_builder.ui.train.preflight import PreflightIssue, PreflightResult
from evals.report.number_format import duration, enumerated, size


def fit_line(result: PreflightResult) -> str:
    """Whether a run fits this computer and how long it takes, in one line; empty if that is not known."""
    needed, seconds = result.needed_bytes, result.training_seconds
    if result.errors or needed is None or seconds is None:
        return ""
    scoring = result.scoring_seconds
    time = about_time(seconds + (scoring or 0.0), result.config, complete=scoring is not None)
    if needed <= result.free_bytes:
        return t("Fits this computer, {time}", time=time)
    return t("Hardly fits this computer, {time}", time=time)


def about_time(seconds: float, config: StudyConfig, *, complete: bool) -> str:
    """An estimated time; unless ``complete``, that of the training alone. ``train.stop_loss`` can end it earlier."""
    time = rounded_duration(seconds)
    if config.grounded and config.train.stop_loss:
        return (
            t("about {time}, perhaps less", time=time)
            if complete
            else t("about {time}, perhaps less, to train", time=time)
        )
    return t("about {time}", time=time) if complete else t("about {time} to train", time=time)


def preflight_card(
    result: PreflightResult, *, before: Sequence[str] = (), again: bool = False
) -> Markup:
    """The result of the preflight checks, with the figures of the run.

    ``before`` are the studies that are running or queued now and come first; ``again``: it has been started before.
    """
    if result.errors:
        return not_ready(result.errors)
    title = t("Ready to resume") if again else fit_line(result) or t("Ready to start")
    notes = [_single_arm_note(result.config), _losing_note(result), _time_basis_note(result)]
    if before:
        wait = t("This project will wait in the queue and start automatically.")
        notes.append(f"{_studies_first(before)} {wait}")
    return fragment("train.ready", title, _figures(result), notes, result.warnings)


def contacts_note(config: StudyConfig) -> Markup:
    """The addresses that a run contacts, with the setting that names each; empty if it contacts none."""
    if not config.external_addresses:
        return Markup("")
    titles = study_options()
    sent = "; ".join(
        t("it {what}", what=what) + f" ({titles[key].title})"
        for key, what in config.external_addresses.items()
    )
    return callout(
        "info", t("A run of this project contacts other machines"), f"{sent[:1].upper()}{sent[1:]}."
    )


def not_ready(errors: Sequence[PreflightIssue]) -> Markup:
    """The errors that prevent a start."""
    return fragment(
        "train.not_ready", [f"{note.what.rstrip('.')}. {note.remedy}" for note in errors]
    )


def _figures(result: PreflightResult) -> Markup:
    assert result.data is not None  # otherwise there is an error
    train, needed = result.config.train, result.needed_bytes
    seconds, scoring = result.training_seconds, result.scoring_seconds
    return fragment(
        "train.figures",
        data=result.data,
        steps=result.steps,
        runs=len(result.config.arms) * result.config.seeds,
        batch=train.batch_size,
        micro=train.micro_batch,
        whole="" if seconds is None else rounded_duration(seconds + (scoring or 0.0)),
        training="" if seconds is None else rounded_duration(seconds),
        scoring="" if scoring is None else rounded_duration(scoring),
        needed=size(float(f"{needed:.1e}")) if needed else "",
        free=size(result.free_bytes),
    )


def _single_arm_note(config: StudyConfig) -> str:
    if config.compares:
        return ""
    return t(
        "Trains {arms} only, so nothing is compared. To compare, select {twins} under Advanced → Arms; an arm "
        "that is already trained is kept.",
        arms=enumerated([label(arm) for arm in config.arms]),
        twins=enumerated([label(arm) for arm in TWINS]),
    )


def _losing_note(result: PreflightResult) -> str:
    if result.losing is None:
        return ""
    return t(
        "The {type} file of the last run answers worse. To train an assistant for that file, select {arm} under "
        "Advanced → Arms.",
        type=result.losing,
        arm=label(QAT.name),
    )


def _time_basis_note(result: PreflightResult) -> str:
    if result.plan is None or result.training_seconds is None:
        return ""
    slower = t("Training can end earlier, and other programs slow it down.")
    if result.plan.measured_runs.flops(result.plan.machine, result.config.arms[0]) is not None:
        known = t("The time is estimated from earlier training runs on this machine.")
        return f"{known} {slower}"
    rough = t(
        "The time is a rough estimate from the number of operations and the speed of the processor, because no "
        "model of this size has been trained on this machine yet. It can be off by a factor of two."
    )
    return f"{rough} {slower}"


def rounded_duration(seconds: float) -> str:
    """An estimated time, rounded to ten seconds, a minute or five minutes by its size."""
    grain = 10 if seconds < 120 else 60 if seconds < 3600 else 300
    return duration(max(grain, round(seconds / grain) * grain)).removesuffix(" 0 s")


def _studies_first(before: Sequence[str]) -> str:
    return tn(
        "Project {names} is first.",
        "Projects {names} are first.",
        len(before),
        names=enumerated([title_of_study(name) for name in before]),
    )
