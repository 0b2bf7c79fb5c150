"""Check a bundle: recompute verdict, figures and differences from the scores of the items.

It needs numpy and scipy, and neither torch nor a model. ``python -m evals.bundle.verify FILE`` is the same as
``assistant-builder verify FILE`` where only these two are installed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.redaction import terminal_text
from evals.bundle.container import Refused, read_bundle
from evals.bundle.signature import check_signature
from evals.compare import Comparison, paired_comparison
from evals.decision import decide
from evals.metrics.text import exact_match, token_f1
from evals.stats.intervals import LEVEL, look_level

FORMAT = 1
TOLERANCE = 1e-12
LINES = (
    "bundle declaration items labels cells comparisons figures claims verdicts provenance files auditor sbom"
).split()
LOSS = "nll_per_token"
MAX_ITEMS, MAX_COMPARISONS, MAX_WORK = 200_000, 5_000, 5e9
_PLACE, _METRIC = re.compile(r"verdict( on [A-Z])?"), re.compile(r"[\w.-]{1,60}")
"""What a place of a verdict and the name of a metric can be: both are printed next to what was computed."""
MAX_LABELS = 16
"""Labels of a comparison; a study has five."""
SHARE_OF_GAIN = WITHOUT_GAIN = 0.03
"""As :mod:`evals.declaration` has them, which needs more packages."""
_MOST_TOKENS_PER_BYTE = 2.0
MAX_FIGURE_WORK = 2e7
"""Scores that all figures read together."""
FIGURES = ("delta", "ci_low", "ci_high", "p_value", "n", "n_clusters")
_SHOWN = ("outcome", "metric", "delta", "ci_low", "ci_high", "margin")
_OF_TEXT = {"exact_match": exact_match, "token_f1": token_f1}
"""Metrics that are computed again from answer and reference where both are in the bundle."""
_OPTIONS = {
    "margin": (float, int, type(None)),
    "higher_is_better": (bool,),
    "level": (float,),
    "seed": (int,),
    "bounds": (list, type(None)),
    "resamples": (int,),
    "floor": (bool,),
}


def verify(path: Path, public_key: Path | None = None) -> dict[str, Any]:
    """Check a bundle.

    Args:
        path: The file.
        public_key: Key of the signer, in PEM; the bundle must then be signed with it.

    Returns:
        ``name``, ``kind``, ``verdicts`` (place, outcome, metric, delta, ci_low, ci_high, margin and n, which were
        computed again, and the author's sentence, which was not), ``checked`` (counts), ``signature``, ``sha256`` and
        ``seconds``.

    Raises:
        Refused: It does not hold; the place says where.
    """
    began = time.monotonic()
    values, seal = read_bundle(path)
    if list(values) != LINES:
        raise Refused("file", f"its lines are {', '.join(values)[:200]}")
    head = _of(values["bundle"], dict, "bundle")
    if head.get("format") != FORMAT:
        raise Refused(
            "bundle", f"its format is {str(head.get('format'))[:20]}, and {FORMAT} is known"
        )
    signed = check_signature(seal, public_key)
    try:
        check = _Check(values)
        checked = check.all()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Refused("file", f"a value is missing or of a wrong type ({error!r:.100})") from error
    return {
        "name": str(head["name"]),
        "kind": str(head["kind"]),
        "verdicts": check.shown,
        "checked": checked,
        "signature": signed,
        "sha256": seal["sha256"],
        "seconds": round(time.monotonic() - began, 3),
    }


class _Check:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._items = _rows(values["items"], "items")
        self._cells = _rows(values["cells"], "cells")
        self._comparisons = _rows(values["comparisons"], "comparisons")
        if len(self._items) > MAX_ITEMS or len(self._comparisons) > MAX_COMPARISONS:
            raise Refused("items", "there are too many to check")
        self._results: list[Comparison] = []
        self.shown: list[dict[str, Any]] = []
        self._declared = _of(values["declaration"], dict, "declaration")

    def all(self) -> dict[str, int]:
        """Check everything, and count it."""
        self._declaration()
        self._names()
        texts = self._texts()
        figures = self._figures()
        work = 0.0
        for number, each in enumerate(self._comparisons):
            place = f"comparisons[{number}]"
            work += self._size(each, place)
            if work > MAX_WORK:
                raise Refused(place, "it would take too long to check")
            self._results.append(self._compared(each, place))
        claims = self._claims()
        verdicts = self._verdicts()
        return {
            "items": len(self._items),
            "cells": len(self._cells),
            "answers": texts,
            "figures": figures,
            "comparisons": len(self._comparisons),
            "claims": claims,
            "verdicts": verdicts,
        }

    def _declaration(self) -> None:
        known = dict(self._declared)
        digest = known.pop("sha256", None)
        if self._values["bundle"]["kind"] == "study":
            known = known["declared"]
        else:
            known.pop("prompts", None)
        if _hash_of(known) != digest:
            raise Refused("declaration", "its hash is not that of its content")
        if self._values["bundle"]["kind"] == "judgement" and (
            self._values["bundle"]["questions"] == "text"
        ):
            wanted = self._declared["inputs"]["questions"]["sha256"]
            if _hash_of(self._items) != wanted:
                raise Refused("items", "they are not the questions of the declaration")

    def _names(self) -> None:
        names = [str(item["item"]) for item in self._items]
        if len(set(names)) != len(names):
            raise Refused("items", "a name occurs twice")
        for number, cell in enumerate(self._cells):
            for metric in cell["metrics"]:
                if not _METRIC.fullmatch(metric):
                    raise Refused(f"cells[{number}]", f"{metric[:40]!r} is no name of a metric")
            columns = {"nll": cell["nll"], "tokens": cell["tokens"], **cell["metrics"]}
            for name, column in columns.items():
                self._column(column, f"cells[{number}].{name}")
        for name, column in _of(self._values["labels"], dict, "labels").items():
            self._column(column, f"labels.{name}", (int, type(None)))

    def _column(
        self, column: Any, place: str, types: tuple[type, ...] = (int, float, type(None))
    ) -> None:
        if len(_of(column, list, place)) != len(self._items):
            raise Refused(place, f"it has {len(column)} values for {len(self._items)} items")
        for number, value in enumerate(column):
            if not isinstance(value, types) or isinstance(value, bool):
                raise Refused(f"{place}[{number}]", f"it is {str(value)[:40]!r}")

    def _texts(self) -> int:
        """Score the answers again by the metrics that need nothing but texts."""
        count = 0
        for number, cell in enumerate(self._cells):
            for place, answer in enumerate(cell.get("answers") or ()):
                item = self._items[place]
                if answer is None or "reference" not in item:
                    continue
                for metric, score in _OF_TEXT.items():
                    column = cell["metrics"].get(metric)
                    if column is None or column[place] is None:
                        continue
                    count += 1
                    if not _equal(column[place], score(answer, item["reference"])):
                        raise Refused(
                            f"cells[{number}].{metric}[{place}]",
                            f"the answer to item {item['item']} of {cell['name']} scores otherwise",
                        )
        return count

    def _value(self, cell: Mapping[str, Any], metric: str, item: int) -> float:
        if metric == LOSS:
            return float(cell["nll"][item] / cell["tokens"][item])
        value = cell["metrics"][metric][item]
        return float(value)

    def _chosen(self, record: Mapping[str, Any], place: str) -> Sequence[int]:
        if record["items"] is None:
            return range(len(self._items))
        for item in _of(record["items"], list, f"{place}.items"):
            if not isinstance(item, int) or not 0 <= item < len(self._items):
                raise Refused(f"{place}.items", f"there is no item {str(item)[:40]}")
        if len(set(record["items"])) != len(record["items"]):
            raise Refused(f"{place}.items", "an item occurs twice")
        return list(record["items"])

    def _cell(self, index: Any, place: str) -> Mapping[str, Any]:
        if not isinstance(index, int) or not 0 <= index < len(self._cells):
            raise Refused(place, f"there is no cell {str(index)[:40]}")
        return self._cells[index]

    def _figures(self) -> int:
        rows = _rows(self._values["figures"], "figures")
        work = 0
        for number, row in enumerate(rows):
            place = f"figures[{number}] ({str(row['place'])[:80]})"
            cell, items = self._cell(row["cell"], place), self._chosen(row, place)
            work += len(items)
            if work > MAX_FIGURE_WORK:
                raise Refused(place, "it would take too long to check")
            if row["metric"] == LOSS:
                nll = math.fsum(cell["nll"][item] for item in items)
                value = nll / sum(cell["tokens"][item] for item in items)
            else:
                value = math.fsum(self._value(cell, row["metric"], item) for item in items)
                value /= len(items)
            _same(row["value"], value, place)
        return len(rows)

    def _size(self, record: Mapping[str, Any], place: str) -> float:
        options = _of(record["options"], dict, f"{place}.options")
        if options.keys() != _OPTIONS.keys():
            raise Refused(f"{place}.options", "it has other keys than expected")
        for name, types in _OPTIONS.items():
            value = options[name]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise Refused(f"{place}.options.{name}", f"it is {str(value)[:40]!r}")
        if not LEVEL <= options["level"] < 1 or options["seed"] < 0:
            raise Refused(f"{place}.options", "level or seed is out of bounds")
        if not 200 <= options["resamples"] <= 1_000_000:
            raise Refused(f"{place}.options.resamples", "it is out of bounds")
        labels = [*_of(record["clusters"], list, place), *_of(record["related"], list, place)]
        if len(labels) > MAX_LABELS:
            raise Refused(place, f"it has more than {MAX_LABELS} labels")
        return len(self._chosen(record, place)) * float(options["resamples"]) * (1 + len(labels))

    def _compared(self, record: Mapping[str, Any], place: str) -> Comparison:
        items = self._chosen(record, place)
        cells = [self._cell(record[side], place) for side in ("baseline", "candidate")]
        metric, options = record["metric"], dict(record["options"])
        if options["bounds"] is not None:
            options["bounds"] = tuple(options["bounds"])

        def labels(names: Sequence[str]) -> dict[str, list[Any]]:
            return {name: [self._values["labels"][name][item] for item in items] for name in names}

        strata = record["strata"]
        try:
            result = paired_comparison(
                *([self._value(cell, metric, item) for item in items] for cell in cells),
                clusters=labels(record["clusters"]),
                related=labels(record["related"]),
                strata=None if strata is None else labels([strata])[strata],
                weights=[cells[0]["tokens"][item] for item in items]
                if record["weighted"]
                else None,
                **options,
            )
        except AssistantBuilderError as error:
            raise Refused(place, str(error)[:200]) from error
        for name in FIGURES:
            _same(record["result"][name], getattr(result, name), f"{place}.result.{name}")
        if record["result"]["verdict"] != result.verdict:
            raise Refused(f"{place}.result.verdict", f"it is {result.verdict!r} by the scores")
        return result

    def _result(self, index: Any, place: str) -> Comparison:
        if not isinstance(index, int) or not 0 <= index < len(self._results):
            raise Refused(place, f"there is no comparison {str(index)[:40]}")
        return self._results[index]

    def _claims(self) -> int:
        rows = _rows(self._values["claims"], "claims")
        for number, row in enumerate(rows):
            place = f"claims[{number}] ({str(row['place'])[:80]})"
            result = self._result(row["comparison"], place)
            of = self._comparisons[row["comparison"]]
            names = [self._cells[of[side]]["name"] for side in ("baseline", "candidate")]
            if [row["baseline"], row["candidate"], row["metric"]] != [*names, of["metric"]]:
                raise Refused(place, "its cells or its metric are not those of the comparison")
            for name in FIGURES:
                _same(row[name], getattr(result, name), f"{place}.{name}")
        return len(rows)

    def _verdicts(self) -> int:
        rows = _rows(self._values["verdicts"], "verdicts")
        declared = self._declared["declared"]
        margins = _declared_bounds(declared)
        level = look_level(int(declared["look"]))
        if self._values["bundle"]["kind"] == "judgement":
            level = 1 - (1 - level) / (len(self._declared["candidates"]) - 1)
            _same(self._declared["level"], level, "declaration.level")
        for number, row in enumerate(rows):
            place = f"verdicts[{number}] ({str(row['place'])[:80]})"
            if not _PLACE.fullmatch(row["place"]):
                raise Refused(place, "this is no place of a verdict")
            compared = {}
            for index in row["comparisons"]:
                result = self._result(index, place)
                record = self._comparisons[index]
                metric = record["metric"]
                _same(record["options"]["level"], level, f"{place}: level of {metric}")
                allowed = margins.get(metric, -1.0)
                if metric == LOSS:
                    self._loss_margin(result.margin, allowed, f"{place}: margin of {metric}")
                else:
                    _same(result.margin, allowed, f"{place}: margin of {metric}")
                compared[metric] = result
            if list(row["bounds"]) != list(margins):
                raise Refused(place, "its bounds are not those of the declaration")
            decision = decide(compared, tuple(margins))
            if row["outcome"] != decision.outcome:
                raise Refused(place, f"the outcome is {decision.outcome!r} by the scores")
            primary = compared[row["metric"]]
            if row["metric"] != next(iter(margins)):
                raise Refused(place, "its metric is not the primary one of the declaration")
            for name, value in (
                ("delta", primary.delta),
                ("ci_low", primary.ci_low),
                ("ci_high", primary.ci_high),
                ("margin", primary.margin),
            ):
                _same(row[name], value, f"{place}.{name}")
            self.shown.append(
                {key: row[key] for key in _SHOWN}
                | {
                    "place": row["place"],
                    "n": primary.n,
                    # in one line, so that it cannot look like another one of what is printed
                    "sentence": " ".join(str(row["sentence"]).split()),
                }
            )
        return len(rows)

    def _loss_margin(self, margin: float, declared: float | None, place: str) -> None:
        """Check the margin of the loss, which may be a share of a gain, or be converted to another unit."""
        if declared is not None and self._values["bundle"]["kind"] == "study":
            return _same(margin, declared, place)
        if declared is not None:
            most = _MOST_TOKENS_PER_BYTE * declared
        else:
            ends = [
                abs(end)
                for record, result in zip(self._comparisons, self._results, strict=True)
                if record["metric"] == LOSS
                for end in (result.ci_low, result.ci_high)
            ]
            most = max(WITHOUT_GAIN, SHARE_OF_GAIN * max(ends, default=0.0))
        if not 0 <= margin <= most:
            raise Refused(place, f"it is {margin!r}, and at most {most:.4g} by the declaration")


def _declared_bounds(declared: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of the decision and their margins, as :attr:`evals.declaration.Declaration.bounds` has them."""
    further = {
        "right_decline": declared["right_decline_margin"],
        "facts_kept": declared["facts_margin"],
    }
    return {
        declared["primary_metric"]: declared["margin"],
        declared["second_metric"]: declared["second_margin"],
        "false_decline": declared["decline_margin"],
        **{metric: margin for metric, margin in further.items() if margin is not None},
    }


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _of(value: Any, kind: type, place: str) -> Any:
    if not isinstance(value, kind):
        raise Refused(place, f"it is of the type {type(value).__name__}")
    return value


def _rows(value: Any, place: str) -> list[dict[str, Any]]:
    for number, row in enumerate(_of(value, list, place)):
        _of(row, dict, f"{place}[{number}]")
    return list(value)


def _equal(claimed: Any, value: float | int | None) -> bool:
    if value is None or claimed is None or isinstance(claimed, bool | str | list | dict):
        return claimed is None and value is None
    return math.isclose(claimed, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _same(claimed: Any, value: float | int | None, place: str) -> None:
    if not _equal(claimed, value):
        raise Refused(place, f"it is {str(claimed)[:40]}, and {value!r} by the scores")


def main(arguments: Sequence[str]) -> int:
    """``python -m evals.bundle.verify FILE``: exit code 0, or 1 with the place that does not hold."""
    if len(arguments) != 1:
        print("python -m evals.bundle.verify FILE", file=sys.stderr)
        return 2
    try:
        found = verify(Path(arguments[0]))
    except Refused as refused:
        print(terminal_text(str(refused)), file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
