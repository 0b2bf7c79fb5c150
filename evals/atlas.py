"""The atlas: what a smaller storage cost in several studies, pooled by a random-effects meta-analysis.

An effect is the harm of a storage against the 16-bit twin on one metric: positive is worse. Losses are in nats per
token, other metrics in points. A group has one storage, one approach and one metric; its studies must have different
held-out questions, because effects on the same questions are not independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats
from typing_extensions import TypedDict

from assistant_builder.arms import LORA
from assistant_builder.atomic_io import read_json
from assistant_builder.data import load_split
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.bundle.container import Refused, read_bundle
from evals.bundle.verify import verify
from evals.declaration import FILE as DECLARATION
from evals.declaration import LOSS
from evals.metrics import metric_of
from evals.report.contrasts import HEADLINE
from evals.report.schema import Report
from evals.stats.intervals import LEVEL
from evals.stats.meta_analysis import leave_one_out, pool, slope

LEAST = 2
"""Studies from which a group is pooled."""
UNKNOWN = "4-bit"
"""Storage of a bundle that does not name it."""
MODERATORS = {
    "answer_words": "words of an answer",
    "pairs": "training pairs, per factor of 10",
}
_LARGEST = 1e9  # of a difference
_BAR = 41


@dataclass(frozen=True)
class Effect:
    """The harm of a storage in one study; ``heldout`` identifies the questions, ``items`` counts them."""

    study: str
    base: str
    storage: str
    approach: str
    metric: str
    harm: float
    ci_low: float
    ci_high: float
    items: int
    heldout: str
    answer_words: float | None = None
    pairs: int | None = None

    @property
    def standard_error(self) -> float:
        """Half the 95 % interval, in normal quantiles."""
        return (self.ci_high - self.ci_low) / (2 * _normal(LEVEL))


class _Declared(TypedDict, total=False):
    heldout_sha256: str


def effects_of(name: str) -> list[Effect]:
    """The effects of a finished study, by its name, or of a bundle, by the path of its file.

    Raises:
        StudyError: There is no such study, or it has no report.
        EvaluationError: The bundle does not hold, or the study compares nothing.
    """
    path = Path(name)
    try:
        found = list(_of_bundle(path) if path.is_file() else _of_study(Study.open(name)))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise EvaluationError(
            m("a value has the wrong type: {error}", error=repr(error)[:100]),
            where=name,
            remedy=m("Get the file again from its author"),
        ) from error
    if not found:
        raise EvaluationError(
            m("it has no comparison of a storage with the 16-bit assistant"),
            where=name,
            remedy=m("Leave it out, or train both arms"),
        )
    return found


def _of_study(study: Study) -> Iterator[Effect]:
    report = Report.load(study.folder / "report.json")
    training = load_split(study.folder / "data", "train")
    declared = study.folder / DECLARATION
    heldout = read_json(declared, _Declared).get("heldout_sha256") if declared.is_file() else None
    common: dict[str, Any] = {
        "study": study.name,
        "base": Path(str(report.config["model"]["base"])).name,
        "approach": report.approach or "memory",
        "heldout": heldout or study.name,
        "answer_words": fmean(len(pair.answer.split()) for pair in training),
        "pairs": len(training),
    }
    storage = str(report.config["model"].get("quant_type") or UNKNOWN)
    for row in report.contrasts:
        if row["name"] == HEADLINE:
            yield from _effect(row, {**common, "storage": storage})
    # files of the arm that was trained in 16 bits, so that storage alone differs
    for file in (each for each in report.formats if each.arm == LORA.name):
        for bound in file.bounds:
            low, high = bound["ci"]
            # at the level of its decision
            reach = _normal(LEVEL) / _normal(file.level)
            found = {
                **{key: bound[key] for key in ("metric", "delta", "n")},
                "ci_low": bound["delta"] + (low - bound["delta"]) * reach,
                "ci_high": bound["delta"] + (high - bound["delta"]) * reach,
            }
            yield from _effect(found, {**common, "storage": file.name})


def _normal(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


def _of_bundle(path: Path) -> Iterator[Effect]:
    try:
        verify(path)
        values, _ = read_bundle(path)
    except Refused as refused:
        raise EvaluationError(
            m("it does not hold: {place}: {reason}", place=refused.place, reason=refused.reason),
            where=str(path),
            remedy=m("Get the file again from its author"),
        ) from refused
    head = values["bundle"]
    if head["kind"] != "study":
        return
    common = {
        "study": str(head["name"]),
        "base": str(values["provenance"].get("base_model", {}).get("name", "?")),
        "approach": str(head.get("approach") or "memory"),
        "heldout": str(values["declaration"].get("heldout_sha256")),
        "storage": str(head.get("storage") or UNKNOWN),
    }
    for claim in values["claims"]:
        if f"{claim['candidate']}-{claim['baseline']}" == HEADLINE:
            yield from _effect(claim, common)


def _effect(row: Entries, common: Mapping[str, Any]) -> Iterator[Effect]:
    # without an interval it cannot be pooled
    if not -_LARGEST < row["ci_low"] < row["ci_high"] < _LARGEST or abs(row["delta"]) > _LARGEST:
        return
    metric = str(row["metric"])
    factor = -100.0 if metric_of(metric).higher_is_better else 1.0 if metric == LOSS else 100.0
    low, high = sorted((factor * row["ci_low"], factor * row["ci_high"]))
    yield Effect(
        **common,
        metric=metric,
        harm=factor * row["delta"] + 0.0,
        ci_low=low,
        ci_high=high,
        items=int(row["n"]),
    )


def atlas(names: Sequence[str]) -> dict[str, Any]:
    """Pool the effects of studies and bundles.

    Returns:
        ``groups`` by storage, approach and metric, the largest first: ``studies`` (their effects), ``pooled`` (None
        with one study), ``moderators`` (the change of the harm per unit), and ``without`` (the mean and interval
        without each study).

    Raises:
        EvaluationError: As of :func:`effects_of`, or two have the same held-out questions.
    """
    groups: dict[tuple[str, str, str], list[Effect]] = defaultdict(list)
    for name in dict.fromkeys(names):
        for effect in effects_of(name):
            groups[effect.storage, effect.approach, effect.metric].append(effect)
    records = []
    for (storage, approach, metric), effects in groups.items():
        _require_independent(effects)
        records.append(
            {
                "storage": storage,
                "approach": approach,
                "metric": metric,
                "unit": "nats per token" if metric == LOSS else "points",
                "studies": [asdict(effect) for effect in effects],
                **_pooled(effects),
            }
        )
    return {"groups": sorted(records, key=lambda group: -len(group["studies"]))}


def _require_independent(effects: Sequence[Effect]) -> None:
    seen: dict[str, str] = {}
    for effect in effects:
        if (other := seen.get(effect.heldout)) is not None:
            raise EvaluationError(
                m(
                    "{study} and {other} have the same test questions, so their effects are not independent",
                    study=effect.study,
                    other=other,
                ),
                where="atlas",
                remedy=m("Name one of them"),
            )
        seen[effect.heldout] = effect.study


def _pooled(effects: Sequence[Effect]) -> dict[str, Any]:
    if len(effects) < LEAST:
        return {"pooled": None, "moderators": {}, "without": []}
    harms, errors = [each.harm for each in effects], [each.standard_error for each in effects]
    without = leave_one_out(harms, errors) if len(effects) > LEAST else []
    return {
        "pooled": asdict(pool(harms, errors)),
        "moderators": {
            name: asdict(found)
            for name in MODERATORS
            if (found := _moderated(effects, name)) is not None
        },
        "without": [
            {"study": effect.study, "mean": found.mean, "ci": list(found.ci)}
            for effect, found in zip(effects, without, strict=False)
        ],
    }


def _moderated(effects: Sequence[Effect], name: str) -> Any:
    known = [each for each in effects if getattr(each, name)]
    values = [float(getattr(each, name)) for each in known]
    if name == "pairs":
        values = [math.log10(value) for value in values]
    return slope([each.harm for each in known], [each.standard_error for each in known], values)


def markdown(found: Mapping[str, Any]) -> str:
    """The atlas as Markdown: a table with a forest plot of each group, the pooled mean, and what one study changes."""
    return "\n".join(line for group in found["groups"] for line in _lines(group))


def _lines(group: Mapping[str, Any]) -> Iterator[str]:
    unit, rows, pooled = group["unit"], group["studies"], group["pooled"]
    ends = [each for row in rows for each in (row["ci_low"], row["ci_high"])]
    if pooled and pooled["prediction"]:
        ends += pooled["prediction"]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    parts = (group["storage"], group["approach"], metric_of(group["metric"]).label)
    yield "## {}, {}: {}".format(*map(_cell, parts))
    yield ""
    yield f"Harm against the 16-bit twin in {unit}; right of the line is worse."
    yield ""
    yield f"| study | items | harm ({unit}) | 95% interval | weight | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    weights = pooled["weights"] if pooled else [1.0] * len(rows)
    for row, weight in zip(rows, weights, strict=True):
        drawn = _bar(row["harm"], (row["ci_low"], row["ci_high"]), low, high)
        yield (
            f"| {_cell(row['study'])} ({_cell(row['base'])}) | {row['items']} | {_number(row['harm'])} | "
            f"{_range(row['ci_low'], row['ci_high'])} | {100 * weight:.0f}% | `{drawn}` |"
        )
    if not pooled:
        yield from ("", "One study is not pooled.", "")
        return
    drawn = _bar(pooled["mean"], pooled["ci"], low, high)
    yield f"| **pooled** | | **{_number(pooled['mean'])}** | {_range(*pooled['ci'])} | | `{drawn}` |"
    if pooled["prediction"]:
        drawn = _bar(pooled["mean"], pooled["prediction"], low, high)
        yield f"| a new study like these | | | {_range(*pooled['prediction'])} | | `{drawn}` |"
    yield ""
    yield (
        f"Heterogeneity: standard deviation between studies {_number(pooled['tau'])} {unit}, I² "
        f"{100 * pooled['i_squared']:.0f}%, Q {pooled['q']:.1f} (p {pooled['p_heterogeneity']:.2g})."
    )
    for name, moved in group["moderators"].items():
        change = f"{_number(moved['slope'])} ({_range(*moved['ci'])}, p {moved['p_value']:.2g})"
        yield f"Moderator, {MODERATORS[name]}: {change}."
    if group["without"]:
        one = max(group["without"], key=lambda row: abs(row["mean"] - pooled["mean"]))
        yield f"Without {_cell(one['study'])}, which moves it most: {_number(one['mean'])} ({_range(*one['ci'])})."
    yield ""


def _bar(value: float, ends: Sequence[float], low: float, high: float) -> str:
    """An interval as text, between ``low`` and ``high``, with the line of no difference."""

    def at(number: float) -> int:
        share = (number - low) / ((high - low) or 1.0)
        return round(min(max(share, 0.0), 1.0) * (_BAR - 1))

    cells = [" "] * _BAR
    cells[at(ends[0]) : at(ends[1]) + 1] = "─" * (at(ends[1]) - at(ends[0]) + 1)
    cells[at(0.0)] = "│" if cells[at(0.0)] == " " else "┼"
    cells[at(value)] = "■"
    return "".join(cells)


def _number(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _range(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"


def _cell(text: str) -> str:
    """A name as the text of a table or heading."""
    return "".join(each if each.isalnum() or each in " .-_" else " " for each in text)[:80]
