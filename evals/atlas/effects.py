"""What a smaller storage cost in one study: effects of finished studies and of bundles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
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

UNKNOWN = "4-bit"
"""Storage of a bundle that does not name it."""
_LARGEST, _NARROWEST = 1e11, 1e-12  # of a difference, and of its interval
_MOST, _LEAST = 1e9, 1e-9  # of a count and of a figure, apart from 0


@dataclass(frozen=True)
class Effect:
    """The harm of a storage in one study.

    ``heldout`` identifies the questions, ``items`` counts them, and ``reference`` is the figure of the 16-bit twin in
    the unit of the harm.
    """

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
    reference: float | None = None

    def __post_init__(self) -> None:
        known = filter(None, (self.items, self.answer_words, self.pairs, self.reference))
        bounded = all(_LEAST < each < _MOST for each in known)
        if not (bounded and _can_be_pooled(self.harm, self.ci_low, self.ci_high)):
            raise ValueError("an effect that cannot be pooled")

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
    twin = report.cells[str(LORA.cell)]
    figures = {**twin["metrics"], LOSS: twin["nll_per_token"]}
    storage = str(report.config["model"].get("quant_type") or UNKNOWN)
    for row in report.contrasts:
        if row["name"] == HEADLINE:
            yield from _effect(row, {**common, "storage": storage}, figures)
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
            yield from _effect(found, {**common, "storage": file.name}, figures)


def _can_be_pooled(harm: float, low: float, high: float) -> bool:
    return high - low > _NARROWEST and max(map(abs, (harm, low, high))) < _LARGEST


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


def _effect(
    row: Entries,
    common: Mapping[str, Any],
    figures: Mapping[str, float | None] = MappingProxyType({}),
) -> Iterator[Effect]:
    metric = str(row["metric"])
    factor = -100.0 if metric_of(metric).higher_is_better else 1.0 if metric == LOSS else 100.0
    low, high = sorted((factor * row["ci_low"], factor * row["ci_high"]))
    harm = factor * row["delta"] + 0.0
    if not _can_be_pooled(harm, low, high):
        return
    yield Effect(
        **common,
        metric=metric,
        harm=harm,
        ci_low=low,
        ci_high=high,
        items=int(row["n"]),
        reference=None
        if figures.get(metric) is None
        else abs(factor) * float(figures[metric] or 0),
    )
