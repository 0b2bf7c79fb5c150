"""Held-out items with the answers of every cell, from one study or from two, and choosing among them. No gradio."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from assistant_builder.arms import CELLS
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.ui.study_snapshot import stamp, study_report
from evals.metrics import METRICS, metric_of
from evals.report.load import CANDIDATE, lead_arm, served_cells, tuned_cells

Row = Mapping[str, Any]
"""An item as ``evals.report.items.item_rows`` makes it."""
Show = Literal["all", "different", "lost", "gained", "declined", "unanswerable"]
Order = Literal["file", "worst", "best"]
SHOWS: tuple[Show, ...] = get_args(Show)


@dataclass(frozen=True)
class ItemSet:
    """Items to look through.

    Attributes:
        rows: The items in the order of the data file.
        cells: Cell → what it is called.
        metrics: Metrics that any item carries.
        pair: The two cells that are compared first.
    """

    rows: tuple[Row, ...]
    cells: Mapping[str, str]
    metrics: tuple[str, ...]
    pair: tuple[str, str]


@dataclass(frozen=True)
class ItemFilter:
    """What of an :class:`ItemSet` is to be seen.

    Attributes:
        first: The cell compared with.
        second: The cell compared.
        show: Which items.
        order: ``worst``: those first on which ``second`` loses most by ``metric``.
        metric: What ``order`` goes by.
        search: Words that question, reference or one of the two answers must hold.
    """

    first: str
    second: str
    show: Show = "all"
    order: Order = "file"
    metric: str = "nll_per_token"
    search: str = ""


def study_items(study: Study) -> ItemSet | None:
    """The items of a study as soon as all its assistants are scored, ``None`` before.

    Of one assistant alone the answers are compared with those of the untuned base, where that was scored.

    Raises:
        AssistantBuilderError: Its scores are damaged or contradict each other.
    """
    folder = study.folder
    files = [folder / "report.json", *(study.cell_folder(cell) / "scores.json" for cell in CELLS)]
    return _study_items(folder, stamp(files))


@functools.lru_cache(maxsize=4)
def _study_items(folder: Path, seen: str) -> ItemSet | None:
    """``seen`` is the stamp of the files, so that they are read once as long as they stay."""
    study = Study(folder)
    report, arms = study_report(study), study.config.arms
    tuned = tuned_cells(arms)
    if report is not None:
        rows = report["items"]
    elif all((study.cell_folder(cell) / "scores.json").is_file() for cell in served_cells(arms)):
        from evals.report.items import item_rows
        from evals.report.load import metrics_of, read_cells

        cells = read_cells(study)
        rows = item_rows(cells, list(metrics_of(cells, tuple(METRICS), tuned)), tuned)
    else:
        return None
    names = {cell: f"{cell} · {spec.label}" for cell, spec in CELLS.items()}
    scored = {cell for row in rows for cell in row["nll"]}
    untuned = lead_arm(arms).untuned_cell
    pair = tuned if len(tuned) > 1 else (untuned if untuned in scored else tuned[0], tuned[0])
    return make_set(rows, names, (pair[0], pair[1]))


def make_set(rows: Iterable[Row], names: Mapping[str, str], pair: tuple[str, str]) -> ItemSet:
    """Items in the order of their file, with the cells and metrics that they have."""
    ordered = tuple(sorted(rows, key=lambda row: (row["row"] or 0, row["turn"])))
    having = {cell for row in ordered for cell in row["nll"]}
    known = {metric for row in ordered for found in row["metrics"].values() for metric in found}
    return ItemSet(
        ordered, {cell: title for cell, title in names.items() if cell in having},
        tuple(metric for metric in METRICS if metric in known), pair,
    )


def relation(row: Row, first: str, second: str) -> str:
    """How an item's answer changes from one cell to another: ``lost gained different same`` or ``not generated``.

    As :func:`evals.report.items.change`, for any two cells.
    """
    before, after = row["answers"].get(first), row["answers"].get(second)
    if before is None or after is None:
        return "not generated"
    right, still = (row["metrics"].get(cell, {}).get("exact_match") for cell in (first, second))
    if right is not None and still is not None and right != still:
        return "lost" if right > still else "gained"
    return "same" if before.strip() == after.strip() else "different"


def harm(row: Row, first: str, second: str, metric: str) -> float | None:
    """By how much ``second`` is worse than ``first`` on an item, in the metric's units; ``None`` where not scored."""
    before, after = (row["metrics"].get(cell, {}).get(metric) for cell in (first, second))
    if before is None or after is None:
        return None
    return float(before - after if metric_of(metric).higher_is_better else after - before)


def chosen(items: ItemSet, wish: ItemFilter) -> list[Row]:
    """The items that are wished for, in the order wished for; those without the score come last."""
    words = _folded(wish.search).split()
    found = [row for row in items.rows if _is(row, wish.show, wish.first, wish.second)
             and all(word in _said(row, wish) for word in words)]
    if wish.order == "file":
        return found
    sign = -1 if wish.order == "worst" else 1
    scored = [(harm(row, wish.first, wish.second, wish.metric), row) for row in found]
    ordered = sorted(((sign * value, row) for value, row in scored if value is not None), key=lambda pair: pair[0])
    return [row for _, row in ordered] + [row for value, row in scored if value is None]


def amounts(items: ItemSet, first: str, second: str) -> dict[Show, int]:
    """How many items each choice shows."""
    return {show: sum(_is(row, show, first, second) for row in items.rows) for show in SHOWS}


def _is(row: Row, show: Show, first: str, second: str) -> bool:
    if show == "all":
        return True
    if show == "unanswerable":
        return not row["answerable"]
    if show == "declined":
        return any(row["declined"].get(cell) for cell in (first, second))
    kind = relation(row, first, second)
    return kind in ("lost", "gained", "different") if show == "different" else kind == show


def _said(row: Row, wish: ItemFilter) -> str:
    texts: Sequence[str | None] = (
        row["question"], row["reference"], row["answers"].get(wish.first), row["answers"].get(wish.second)
    )
    return _folded(" ".join(text for text in texts if text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


# two studies

SIDES = ("A", "B")


def across_items(a: Study, b: Study) -> ItemSet:
    """The items that two studies share, with the answers of both; cells are called ``A:Q4``.

    Raises:
        AssistantBuilderError: A study lacks its scores, or they contradict each other.
    """
    return _across_items(a.folder, b.folder, stamp(
        study.cell_folder(cell) / "scores.json" for study in (a, b) for cell in CELLS
    ))


@functools.lru_cache(maxsize=2)
def _across_items(a: Path, b: Path, seen: str) -> ItemSet:
    from evals.report.items import item_rows
    from evals.report.load import read_cells
    from evals.study_compare.compare import match_items, shared_cell

    studies = [Study(folder) for folder in (a, b)]
    cells = [read_cells(study) for study in studies]
    shared = shared_cell(*cells)
    matching = match_items(*(found[shared] for found in cells))
    rows = [{row["item"]: row for row in item_rows(found, list(METRICS), tuned_cells(study.config.arms))}
            for study, found in zip(studies, cells, strict=True)]
    names = {
        f"{side}:{cell}": f"{side} · {folder.name} · {cell}"
        for cell in CELLS for side, folder in zip(SIDES, (a, b), strict=True)
    }
    joined = [_joined(rows[0][one], rows[1][other]) for one, other in matching.shared]
    compared = CANDIDATE if all(CANDIDATE in found for found in cells) else shared
    return make_set(joined, names, (f"A:{compared}", f"B:{compared}"))


def _joined(one: Row, other: Row) -> Row:
    both = {}
    for part in ("answers", "declined", "nll", "metrics"):
        both[part] = {
            f"{side}:{cell}": value
            for side, row in zip(SIDES, (one, other), strict=True) for cell, value in row[part].items()
        }
    return {**one, **both}


def comparable(study: Study) -> dict[str, int]:
    """The other studies that have been evaluated, with the number of held-out items that both have.

    Returns:
        Name → items, the likeliest first: the study that this one was made from, then the newest.
    """
    parent, asked = made_from(study), _asked_of(study)
    others = {other.name: len(asked & _asked_of(other)) for other in Study.all()
              if other.name != study.name and _evaluated(other)}
    return dict(sorted(others.items(), key=lambda pair: pair[0] != parent))  # stable: the rest stays newest first


def _asked_of(study: Study) -> frozenset[int]:
    path = study.cell_folder(tuned_cells(study.config.arms)[0]) / "samples.jsonl"
    return _asked(path, stamp([path]))


@functools.lru_cache(maxsize=64)
def _asked(path: Path, seen: str) -> frozenset[int]:
    """What was asked and what the reference is, as numbers; the system prompt aside, as ``evals.study_compare`` has it."""
    return frozenset(
        hash((tuple(message["content"] for message in sample["prompt"] if message["role"] != "system"),
              sample["reference"]))
        for sample in read_jsonl(path)
    )


def made_from(study: Study) -> str | None:
    """Name of the study that this one is a corrected copy of, where ``made_from.json`` says so: ``{"study": name}``."""
    path = study.folder / "made_from.json"
    name = read_json(path).get("study") if path.is_file() else None
    return name if isinstance(name, str) else None


def _evaluated(study: Study) -> bool:
    try:
        return study.step("evaluate").state == "succeeded"
    except AssistantBuilderError:
        return False
