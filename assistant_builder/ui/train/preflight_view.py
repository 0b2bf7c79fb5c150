"""Before a run: what the presets set, what the settings come to, and what speaks against starting."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.arms import TWINS, label, named
from assistant_builder.config import PRESET_LABELS, PRESETS, StudyConfig, option_fields
from assistant_builder.ui.html import callout, card, items, join, table, tiles
from assistant_builder.ui.settings_form import get_value, study_options
from assistant_builder.ui.train.preflight import PreflightIssue, Readiness
from evals.report.format import count, duration, plural, size


def preset_table(config: StudyConfig) -> Markup:
    """Every value that a preset sets, what it means, and what the form holds now.

    Args:
        config: The settings on the form.
    """
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


def readiness_card(seen: Readiness, *, before: Sequence[str] = (), again: bool = False) -> Markup:
    """Ready or not, with the figures a start would have.

    Args:
        seen: The settings, assessed.
        before: Studies that run or wait now and come first.
        again: Whether the study has been started before, in spite of any warning.
    """
    if seen.errors:
        return not_ready(seen.errors)
    assert seen.data is not None  # an error otherwise
    title = "Ready to carry on" if again else "Ready to start"
    if seen.warnings:
        title += ", with a warning" if len(seen.warnings) == 1 else ", with warnings"
    queue = (
        Markup('<p class="ab-ready-note">{}</p>').format(
            f"{_names(before)} first: this study will wait for its turn and then start by itself."
        )
        if before else ""
    )
    warned = join(_finding(note) for note in seen.warnings)
    return Markup('<div class="ab-ready ab-{}">{}</div>').format(
        "warn" if seen.warnings else "good",
        card(title, tiles(_figures(seen)), _alone(seen.config), _basis(seen), queue, warned),
    )


def contacts_note(config: StudyConfig) -> Markup:
    """Which addresses a run contacts, by the settings that name them; empty where it contacts none."""
    if not config.external_addresses:
        return Markup("")
    titles = study_options()
    sent = "; ".join(f"it {what} ({titles[key].title})" for key, what in config.external_addresses.items())
    return callout("info", "A run of this study contacts other machines", f"{sent[:1].upper()}{sent[1:]}.")


def not_ready(errors: Sequence[PreflightIssue]) -> Markup:
    """What has to be put right before anything can be started."""
    body = items(f"{note.what.rstrip('.')}. {note.remedy}" for note in errors)
    return Markup('<div class="ab-ready ab-bad">{}</div>').format(card("Not ready", body))


def _figures(seen: Readiness) -> list[tuple[str, str, str]]:
    config, data = seen.config, seen.data
    assert data is not None
    train = config.train
    micro = min(train.micro_batch_size, train.batch_size)
    arms = len(config.arms) * config.seeds
    seconds, scoring = seen.training_seconds, seen.scoring_seconds
    if seconds is None:
        time = ("Time", "–", "told by the first run with this model")
    elif scoring is None:
        time = ("Time", f"≈ {_about(seconds)}", f"{plural(arms, 'training')}; scoring comes on top")
    else:
        time = ("Time", f"≈ {_about(seconds + scoring)}", f"{_about(seconds)} to train, {_about(scoring)} to score")
    needed = seen.needed_bytes
    memory = ("Memory", f"≈ {size(_two_digits(needed))}" if needed else "–",
              f"{size(seen.free_bytes)} free" if needed else "told once the model is here")
    return [
        ("Pairs", count(data.train), f"{count(data.validation)} to validate, {count(data.heldout)} held out"),
        ("Steps", count(seen.steps), f"in each of {arms} trainings" if arms > 1 else "in one training"),
        ("Effective batch", plural(train.batch_size, "pair"), f"{micro} at once × {train.batch_size // micro}"),
        time, memory,
    ]


def _alone(config: StudyConfig) -> Markup:
    """That a study of one arm compares nothing."""
    if config.compares:
        return Markup("")
    return Markup('<p class="ab-ready-note">{}</p>').format(
        f"Trains {' and '.join(map(label, config.arms))} alone: what 4-bit costs is not measured. Tick {named(TWINS)} "
        "under Arms, among all settings, to compare; an arm that is trained already is kept.")


def _basis(seen: Readiness) -> Markup:
    if seen.plan is None or seen.training_seconds is None:
        return Markup("")
    known = seen.plan.measured_runs.flops(seen.plan.machine, seen.config.arms[0]) is not None
    basis = (
        "Time as learnt from the trainings that this machine has finished." if known
        else "Time is rough: no training with a model of this size has finished on this machine yet, so it is reckoned "
        "from the operations and what the processor can do; it can be off by a factor of two."
    )
    return Markup('<p class="ab-ready-note">{}</p>').format(basis)


def _about(seconds: float) -> str:
    """A time as an estimate deserves it: to ten seconds, a minute, five minutes."""
    grain = 10 if seconds < 120 else 60 if seconds < 3600 else 300
    return duration(max(grain, round(seconds / grain) * grain)).removesuffix(" 0 s")


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def _finding(note: PreflightIssue) -> Markup:
    return Markup('<div class="ab-finding ab-warn"><strong>{}</strong> <span>{}</span></div>').format(
        note.what, note.remedy
    )


def _names(before: Sequence[str]) -> str:
    return f"Study {before[0]} is" if len(before) == 1 else f"Studies {', '.join(before[:-1])} and {before[-1]} are"


def unticked(warnings: Sequence[PreflightIssue]) -> Markup:
    """Why Start did nothing: warnings nobody has overruled."""
    return callout(
        "warn", "Nothing was started: there are warnings", " ".join(f"{note.what.rstrip('.')}." for note in warnings),
        "Put them right, or tick “Proceed anyhow” and press Start again.",
    )
