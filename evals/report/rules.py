"""How the cells of a study are compared: its declaration applied to the held-out items."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.config import EvalConfig
from assistant_builder.data import load_split
from assistant_builder.study import Study
from evals.compare import Comparison, paired_comparison
from evals.declaration import (
    LABELS,
    LOSS,
    RIGHT_DECLINES,
    SHARE_OF_GAIN,
    SIMILAR_QUESTIONS,
    WITHOUT_GAIN,
    Declaration,
    HeldOut,
    changes,
    declare,
    enough_to_decline,
    frozen,
    look_at,
)
from evals.metrics import metric_of
from evals.report.load import Cell
from evals.stats.intervals import LEVEL, look_level


@dataclass(frozen=True)
class Call:
    """A comparison as it was computed.

    Attributes:
        baseline: The baseline.
        candidate: The candidate.
        metric: Name of the metric.
        items: The items, by name.
        labels: Argument of :func:`paired_comparison` → name of a label → the label of each item.
        options: Its other arguments.
        result: Its result.
    """

    baseline: Cell
    candidate: Cell
    metric: str
    items: tuple[str, ...]
    labels: dict[str, dict[str, list[Hashable]]]
    options: dict[str, Any]
    result: Comparison


_CALLS: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Collect every comparison of :meth:`Rules.compare` in the block."""
    calls: list[Call] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


class _Similar(TypedDict):
    groups: dict[str, int | None]


@dataclass(frozen=True)
class Rules:
    """Metrics, margins, clusters and items of the comparisons of a study.

    Attributes:
        declared: The declaration of the study; without one, what follows from the settings as they are now.
        heldout: The held-out pairs.
        settings: Seed and resamples.
        frozen: The content of ``declaration.json``; None if scoring started without one.
        similar: Item → its group of similar questions; empty without embeddings.
        loss_margin: Margin of the loss where the declaration sets a share of the gain, in nats per token.
        now: The declaration that follows from the settings as they are now; None if that is ``declared``.
    """

    declared: Declaration
    heldout: HeldOut
    settings: EvalConfig
    frozen: dict[str, Any] | None = None
    similar: Mapping[str, int | None] = field(default_factory=dict)
    loss_margin: float = WITHOUT_GAIN
    now: Declaration | None = None

    @classmethod
    def of(cls, study: Study) -> Rules:
        """The rules of a study; without its data, they are about all scored items.

        Raises:
            DataError: The split was changed.
            EvaluationError: No held-out pair is left.
        """
        folder = study.folder / "data"
        if not (folder / "split.json").exists():
            empty = HeldOut({}, frozenset())
            return cls(declare(study.config, empty, ()), empty, study.config.eval)
        heldout = HeldOut.read(study)
        record, training = frozen(study, heldout), load_split(folder, "train")
        declared = (
            Declaration.from_record(record["declared"]) if record and record["sha256"] else None
        )
        # a declaration that was changed is a further look
        look = declared.look if declared else look_at(study, heldout) + (record is not None)
        now = declare(study.config, heldout, training, look)
        declared = declared or now
        path = study.evals_folder / SIMILAR_QUESTIONS
        similar = read_json(path, _Similar)["groups"] if path.exists() else {}
        return cls(declared, heldout, study.config.eval, record, similar, now=now)

    def with_gain(self, untuned: Cell | None, tuned: Cell | None, items: list[str]) -> Rules:
        """The rules with the margin of the loss as a share of what tuning gained at least on the items."""
        if untuned is None or tuned is None or not items:
            return self
        gained = -self.compare(
            untuned, tuned, LOSS, items
        ).ci_high  # at least, as it is measured on the same items
        return replace(self, loss_margin=max(0.0, SHARE_OF_GAIN * gained))

    def scaled_loss(self, factor: float) -> Rules:
        """The rules with the margins of the loss in another unit."""
        declared = self.declared
        if declared.primary_metric == LOSS and declared.margin is not None:
            declared = replace(declared, margin=declared.margin * factor)
        return replace(self, declared=declared, loss_margin=self.loss_margin * factor)

    @property
    def bounds(self) -> tuple[str, ...]:
        """The metrics whose bounds a "no worse" needs together, the primary one first."""
        return tuple(self.declared.bounds)

    def margin(self, metric: str) -> float | None:
        """The margin of a metric of the decision; ``None`` for another metric."""
        if metric not in self.declared.bounds:
            return None
        chosen = self.declared.bounds[metric]
        return self.loss_margin if chosen is None else chosen

    def items(self, cell: Cell, metric: str) -> list[str]:
        """The items of the headline, by name; for right declines those that should be declined."""
        if metric == RIGHT_DECLINES:
            return [item for item, sample in cell.by_item.items() if not sample["answerable"]]
        asked = [item for item, sample in cell.by_item.items() if sample["answerable"]] or list(
            cell.by_item
        )
        if self.declared.items == "all":
            return asked
        return [
            item for item in asked if cell.by_item[item]["row"] in self.heldout.covered
        ] or asked

    def taught(self, cell: Cell) -> dict[str, int]:
        """How many of the ``items`` to answer are ``covered``: their facts were taught in another wording."""
        rows = [sample["row"] for sample in cell.by_item.values() if sample["answerable"]]
        return {"items": len(rows), "covered": sum(row in self.heldout.covered for row in rows)}

    @property
    def level(self) -> float:
        """The level of the intervals that decide, which pays for earlier looks at the questions."""
        return look_level(self.declared.look)

    @property
    def level_of_files(self) -> float:
        """The same for GGUF files; each further choice of their types is a further look."""
        known = self.frozen["file_types"] if self.frozen else []
        types = tuple(sorted((self.now or self.declared).formats or ()))
        return look_level(
            self.declared.look + (known.index(types) if types in known else len(known))
        )

    @property
    def to_decline(self) -> dict[str, Any]:
        """The number of held-out questions to decline, and whether they are ``judged``."""
        needed = enough_to_decline(self.settings.right_decline_margin, self.declared.look)
        return {
            "questions": sum(not pair.answerable for pair in self.heldout.pairs.values()),
            "needed": needed,
            "judged": RIGHT_DECLINES in self.bounds,
        }

    def uncovered(self, cell: Cell) -> list[str]:
        """The answerable items whose facts were not taught, if the headline is about the others."""
        headline = set(self.items(cell, LOSS))
        return [
            item
            for item, sample in cell.by_item.items()
            if sample["answerable"] and item not in headline
        ]

    def labels(
        self, samples: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> dict[str, list[Hashable]]:
        """Labels of the samples; those that leave fewer than two clusters are left out."""
        found = {name: [self._label(sample, name) for sample in samples] for name in names}
        return {
            name: labels for name, labels in found.items() if None in labels or len(set(labels)) > 1
        }

    def fact(self, sample: Mapping[str, Any]) -> Hashable:
        """What a sample asks for: the label of its cluster, else its answer if that is long enough, else its item."""
        named = (self._label(sample, name) for name in ("cluster", "answer"))
        return next((label for label in named if label is not None), str(sample["item"]))

    def _label(self, sample: Mapping[str, Any], name: str) -> Hashable:
        if name == "cluster":  # turns of a conversation are one, too
            return sample.get("cluster")
        return (
            self.heldout.label(sample["row"], name) if sample["row"] in self.heldout.pairs else None
        )

    def clusters(
        self, samples: Sequence[Mapping[str, Any]], *, other: bool = False
    ) -> dict[str, list[Hashable]]:
        """The labels of the declared claim, or of the other one, and the conversations of several turns."""
        names = self.declared.other_clusters if other else self.declared.clusters
        if self._claim(other=other) == "facts":
            names = tuple(dict.fromkeys([*names, "cluster"]))
        found = self.labels(samples, names)
        rows = [sample["row"] for sample in samples]
        return found if len(set(rows)) == len(rows) else {**found, "conversation": rows}

    def _claim(self, *, other: bool) -> str:
        return (
            self.declared.estimand
            if not other
            else "facts"
            if self.declared.estimand == "wordings"
            else "wordings"
        )

    def compare(
        self,
        baseline: Cell,
        candidate: Cell,
        metric: str,
        items: list[str],
        *,
        other: bool = False,
        level: float = LEVEL,
    ) -> Comparison:
        """Compare two cells item by item; losses are weighted by answer tokens.

        Args:
            baseline: Cell with a score of the metric for each item.
            candidate: The same.
            metric: Name of the metric.
            items: At least two items.
            other: Whether to cluster for the claim that is not the headline.
            level: Coverage of the interval.
        """
        samples = [baseline.by_item[item] for item in items]
        info, clusters = metric_of(metric), self.clusters(samples, other=other)
        if metric == RIGHT_DECLINES:  # all of these have the same answer
            clusters.pop("answer", None)
        facts = self._claim(other=other) == "facts"
        related = {
            name: labels
            for name, labels in self.labels(samples, LABELS).items()
            if name not in clusters and facts
        }
        if self.similar:
            related["group of similar questions"] = [
                self.similar.get(str(sample.get("name", sample["item"]))) for sample in samples
            ]
        known = {} if facts else self.labels(samples, ("cluster", "answer"))
        strata = next(
            (labels for labels in known.values() if any(label is not None for label in labels)),
            None,
        )
        options: dict[str, Any] = {
            "margin": self.margin(metric),
            "higher_is_better": info.higher_is_better,
            "level": level,
            "seed": self.settings.seed
            if self.declared.eval_seed is None
            else self.declared.eval_seed,
            "bounds": info.bounds,
            "resamples": self.declared.resamples or self.settings.bootstrap_resamples,
            # of assistants that decline nothing, none declines less
            "floor": metric != RIGHT_DECLINES,
        }
        result = paired_comparison(
            baseline.values(items, metric),
            candidate.values(items, metric),
            clusters=clusters,
            related=related,
            strata=strata,
            weights=[sample["tokens"] for sample in samples] if info.token_weighted else None,
            **options,
        )
        calls = _CALLS.get()
        if calls is not None:
            labels = {"clusters": clusters, "related": related}
            if strata is not None:
                labels["strata"] = {"stratum": strata}
            calls.append(Call(baseline, candidate, metric, tuple(items), labels, options, result))
        return result

    def record(self) -> dict[str, Any]:
        """What was frozen before scoring, with its hash, what was changed since, and what was declared before."""
        if self.frozen is None:
            return {
                "declared": self.declared.to_record(),
                "sha256": None,
                "written": None,
                "changes": [],
            }
        return {
            "declared": self.declared.to_record(),
            **{key: self.frozen[key] for key in ("sha256", "written", "earlier")},
            "changes": changes(self.frozen["declared"], self.now or self.declared),
        }


def averaged(cells: Sequence[Cell]) -> Cell:
    """A cell of several training seeds, with the mean of each item's scores.

    Args:
        cells: The cell of each seed, with the same items in the same order.
    """
    first = cells[0]
    if len(cells) == 1:
        return first
    samples = []
    for item, sample in first.by_item.items():
        same = [cell.by_item[item] for cell in cells]
        known = set.intersection(*(set(each["metrics"]) for each in same))
        scored = all(each.get("nll") is not None for each in same)
        samples.append(
            {
                **sample,
                "nll": sum(each["nll"] for each in same) / len(same) if scored else None,
                "metrics": {
                    name: sum(each["metrics"][name] for each in same) / len(same)
                    for name in sorted(known)
                },
            }
        )
    return Cell(first.name, tuple(samples), first.scores)
