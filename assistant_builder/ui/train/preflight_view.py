"""Preset table, preflight card and the notes before a run."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.arms import TWINS, label, named
from assistant_builder.config import PRESET_LABELS, PRESETS, StudyConfig, option_fields
from assistant_builder.ui.html import callout, card, items, join, table, tiles
from assistant_builder.ui.settings_form import get_value, study_options
from assistant_builder.ui.train.preflight import PreflightIssue, PreflightResult
from evals.report.format import count, duration, plural, size


def preset_table(config: StudyConfig) -> Markup:
    """Every value that a preset sets, with its meaning and the present value of the form."""
    options = study_options()
    rows = []
    for key in dict.fromkeys(key for values in PRESETS.values() for key in values):
        option, now = options[f"train.{key}"], get_value(config, f"train.{key}")
        meaning = option_fields()[f"train.{key}"][0].description
        named = Markup("<b>{}</b><small>{}</small>").format(option.title, meaning)
        shown = f"{now:g}"
        if now != PRESETS.get(config.train.preset, {}).get(key, now):
            shown = Markup('<em title="differs from the preset">{}</em>').format(shown)
        rows.append((named, *(f"{values[key]:g}" for values in PRESETS.values()), shown))
    headers = ("Setting", *(PRESET_LABELS[name][0] for name in PRESETS), "Now")
    return Markup('<div class="ab-preset-table">{}</div>').format(table(headers, rows, numeric=range(1, len(headers))))


def preflight_card(result: PreflightResult, *, before: Sequence[str] = (), again: bool = False) -> Markup:
    """The result of the preflight checks, with the figures of the run.

    Args:
        result: The result.
        before: Studies that are running or queued now and come first.
        again: Whether the study has been started before.
    """
    if result.errors:
        return not_ready(result.errors)
    title = "Ready to resume" if again else "Ready to start"
    if result.warnings:
        title += ", with a warning" if len(result.warnings) == 1 else ", with warnings"
    queue = (
        Markup('<p class="ab-ready-note">{}</p>').format(
            f"{_studies_are(before)} first: this study will wait in the queue and start automatically."
        )
        if before else ""
    )
    warned = join(_issue(note) for note in result.warnings)
    return Markup('<div class="ab-ready ab-{}">{}</div>').format(
        "warn" if result.warnings else "good",
        card(title, tiles(_figures(result)), _single_arm_note(result.config), _time_basis_note(result), queue, warned),
    )


def contacts_note(config: StudyConfig) -> Markup:
    """The addresses that a run contacts, with the setting that names each; empty if it contacts none."""
    if not config.external_addresses:
        return Markup("")
    titles = study_options()
    sent = "; ".join(f"it {what} ({titles[key].title})" for key, what in config.external_addresses.items())
    return callout("info", "A run of this study contacts other machines", f"{sent[:1].upper()}{sent[1:]}.")


def not_ready(errors: Sequence[PreflightIssue]) -> Markup:
    """The errors that prevent a start."""
    body = items(f"{note.what.rstrip('.')}. {note.remedy}" for note in errors)
    return Markup('<div class="ab-ready ab-bad">{}</div>').format(card("Not ready", body))


def _figures(result: PreflightResult) -> list[tuple[str, str, str]]:
    config, data = result.config, result.data
    assert data is not None  # otherwise there is an error
    train = config.train
    micro = min(train.micro_batch_size, train.batch_size)
    arms = len(config.arms) * config.seeds
    seconds, scoring = result.training_seconds, result.scoring_seconds
    if seconds is None:
        time = ("Time", "–", "known after the first run with this model")
    elif scoring is None:
        time = ("Time", f"≈ {_rounded_duration(seconds)}", f"{plural(arms, 'training run')}, plus scoring")
    else:
        time = ("Time", f"≈ {_rounded_duration(seconds + scoring)}",
                f"{_rounded_duration(seconds)} to train, {_rounded_duration(scoring)} to score")
    needed = result.needed_bytes
    memory = ("Memory", f"≈ {size(_two_digits(needed))}" if needed else "–",
              f"{size(result.free_bytes)} free" if needed else "known once the model is downloaded")
    return [
        ("Pairs", count(data.train), f"{count(data.validation)} to validate, {count(data.heldout)} held out"),
        ("Steps", count(result.steps), f"in each of {arms} training runs" if arms > 1 else "in one training run"),
        ("Effective batch", plural(train.batch_size, "pair"), f"micro-batch {micro} × {train.batch_size // micro}"),
        time, memory,
    ]


def _single_arm_note(config: StudyConfig) -> Markup:
    """A note that a study of one arm compares nothing."""
    if config.compares:
        return Markup("")
    return Markup('<p class="ab-ready-note">{}</p>').format(
        f"Trains {' and '.join(map(label, config.arms))} only: the cost of 4-bit is not measured. To compare, select "
        f"{named(TWINS)} under All settings → Arms; an arm that is already trained is kept.")


def _time_basis_note(result: PreflightResult) -> Markup:
    if result.plan is None or result.training_seconds is None:
        return Markup("")
    known = result.plan.measured_runs.flops(result.plan.machine, result.config.arms[0]) is not None
    basis = (
        "The time is estimated from earlier training runs on this machine." if known
        else "The time is a rough estimate from the number of operations and the speed of the processor, because no "
        "model of this size has been trained on this machine yet. It can be off by a factor of two."
    )
    return Markup('<p class="ab-ready-note">{}</p>').format(basis)


def _rounded_duration(seconds: float) -> str:
    """An estimated time, rounded to ten seconds, a minute or five minutes by its size."""
    grain = 10 if seconds < 120 else 60 if seconds < 3600 else 300
    return duration(max(grain, round(seconds / grain) * grain)).removesuffix(" 0 s")


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def _issue(note: PreflightIssue) -> Markup:
    return Markup('<div class="ab-finding ab-warn"><strong>{}</strong> <span>{}</span></div>').format(
        note.what, note.remedy
    )


def _studies_are(before: Sequence[str]) -> str:
    return f"Study {before[0]} is" if len(before) == 1 else f"Studies {', '.join(before[:-1])} and {before[-1]} are"


def unconfirmed_callout(warnings: Sequence[PreflightIssue]) -> Markup:
    """A message that the warnings have to be confirmed before a start."""
    return callout(
        "warn", "The study was not started: there are warnings",
        " ".join(f"{note.what.rstrip('.')}." for note in warnings),
        "Correct the settings, or select “Start anyway” and press Start again.",
    )
