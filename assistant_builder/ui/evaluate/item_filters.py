"""Held-out items of one study or two with the answers of every cell, and their filters. No gradio."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from assistant_builder.arms import CELLS
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.data.edit import NO_NUMBERS
from assistant_builder.data.prepare import row_numbers
from assistant_builder.data.types import RowNumbers
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import t
from assistant_builder.normalization import normalize_form
from assistant_builder.study import Study
from assistant_builder.study.contents import MadeFrom, SampleLine
from assistant_builder.ui.study_snapshot import stamp, study_report
from evals.metrics import METRICS, metric_of
from evals.report.items import relation
from evals.report.load import CANDIDATE, lead_arm, served_cells, tuned_cells

Row = Mapping[str, Any]
"""An item as ``evals.report.items.item_rows`` returns it."""
Show = Literal["all", "different", "lost", "gained", "declined", "unanswerable"]
SHOWS: tuple[Show, ...] = get_args(Show)


@dataclass(frozen=True)
class ItemSet:
    """Items of a browser in the order of the data file, with the metrics that any of them has."""

    rows: tuple[Row, ...]
    cells: Mapping[str, str]
    """Cell → its title."""
    metrics: tuple[str, ...]
    pair: tuple[str, str]
    """The two cells that are compared by default."""
    numbers: RowNumbers = NO_NUMBERS
    """Row numbers of the data file."""


@dataclass(frozen=True)
class ItemFilter:
    """Selection of the items of an :class:`ItemSet`.

    ``second`` is compared with ``first``. Question, reference or an answer contains the words of ``search``.
    """

    first: str
    second: str
    show: Show = "all"
    search: str = ""


def study_items(study: Study) -> ItemSet | None:
    """The items of a study; ``None`` until all its assistants are scored.

    A single assistant is compared with its untuned base if that was scored.

    Raises:
        AssistantBuilderError: The scores are damaged or contradict each other.
    """
    study = study.recommended
    files = [
        study.folder / "report.json",
        *(study.cell_folder(cell) / "scores.json" for cell in CELLS),
    ]
    return _study_items(study.folder, stamp(files))


@functools.lru_cache(maxsize=4)
def _study_items(folder: Path, version: str) -> ItemSet | None:
    """Read the items; ``version`` is the stamp of the files, so that unchanged files are read once."""
    study = Study(folder).recommended
    report, arms = study_report(study), study.config.arms
    tuned = tuned_cells(arms)
    if report is not None:
        rows: Sequence[Row] = report.items
    elif all((study.cell_folder(cell) / "scores.json").is_file() for cell in served_cells(arms)):
        from evals.report.items import item_rows
        from evals.report.load import metrics_of, read_cells

        cells = read_cells(study)
        rows = item_rows(cells, list(metrics_of(cells, tuned)), tuned)
    else:
        return None
    names = {cell: f"{cell} · {t(spec.label)}" for cell, spec in CELLS.items()}
    scored = {cell for row in rows for cell in row["nll"]}
    untuned = lead_arm(arms).untuned_cell
    pair = tuned if len(tuned) > 1 else (untuned if untuned in scored else tuned[0], tuned[0])
    return make_item_set(rows, names, (pair[0], pair[1]), row_numbers(folder / "data"))


def make_item_set(
    rows: Iterable[Row],
    names: Mapping[str, str],
    pair: tuple[str, str],
    numbers: RowNumbers = NO_NUMBERS,
) -> ItemSet:
    """Items in the order of their file, with the cells and metrics that they have."""
    ordered = tuple(sorted(rows, key=lambda row: (row["row"] or 0, row["turn"])))
    scored = {cell for row in ordered for cell in row["nll"]}
    measured = {metric for row in ordered for found in row["metrics"].values() for metric in found}
    return ItemSet(
        ordered,
        {cell: title for cell, title in names.items() if cell in scored},
        tuple(metric for metric in METRICS if metric in measured),
        pair,
        numbers,
    )


def answer_change(row: Row, first: str, second: str) -> str:
    """The :func:`~evals.report.items.relation` of an item's answers in two cells."""
    return relation(
        *(
            (row["answers"].get(cell), row["metrics"].get(cell, {}).get("exact_match"))
            for cell in (first, second)
        )
    )


def degradation(row: Row, first: str, second: str, metric: str) -> float | None:
    """Degradation from ``first`` to ``second`` in the metric's units, positive if worse; ``None`` if unscored."""
    before, after = (row["metrics"].get(cell, {}).get(metric) for cell in (first, second))
    if before is None or after is None:
        return None
    return float(before - after if metric_of(metric).higher_is_better else after - before)


def filter_items(items: ItemSet, query: ItemFilter) -> list[Row]:
    """The selected items."""
    words, found = _normalized(query.search).split(), []
    for row in items.rows:
        if _matches(row, query.show, query.first, query.second):
            answers = (row["answers"].get(cell) for cell in (query.first, query.second))
            texts = (row["question"], row["reference"], *answers)
            searchable = _normalized(" ".join(text for text in texts if text)) if words else ""
            if all(word in searchable for word in words):
                found.append(row)
    return found


def count_by_choice(items: ItemSet, first: str, second: str) -> dict[Show, int]:
    """Number of items of each kind."""
    return {show: sum(_matches(row, show, first, second) for row in items.rows) for show in SHOWS}


def _matches(row: Row, show: Show, first: str, second: str) -> bool:
    if show == "all":
        return True
    if show == "unanswerable":
        return not row["answerable"]
    if show == "declined":
        return any(row["declined"].get(cell) for cell in (first, second))
    kind = answer_change(row, first, second)
    return kind in ("lost", "gained", "different") if show == "different" else kind == show


def _normalized(text: str) -> str:
    return normalize_form("NFKC", text).casefold()


# two studies

SIDES = ("A", "B")


def shared_items(a: Study, b: Study) -> ItemSet:
    """The items that two studies share, with the answers of both; the cells are named ``A:Q4``, ``B:Q4``.

    Raises:
        AssistantBuilderError: The scores of a study are missing or contradict each other.
    """
    files = (study.cell_folder(cell) / "scores.json" for study in (a, b) for cell in CELLS)
    return _shared_items(a.folder, b.folder, stamp(files))


@functools.lru_cache(maxsize=2)
def _shared_items(a: Path, b: Path, version: str) -> ItemSet:
    from evals.report.items import item_rows
    from evals.report.load import read_cells
    from evals.study_compare.compare import match_items, shared_cell

    studies = [Study(folder) for folder in (a, b)]
    cells = [read_cells(study) for study in studies]
    shared = shared_cell(*cells)
    matching = match_items(*(found[shared] for found in cells))
    rows = [
        {
            row["item"]: row
            for row in item_rows(found, list(METRICS), tuned_cells(study.config.arms))
        }
        for study, found in zip(studies, cells, strict=True)
    ]
    names = {
        f"{side}:{cell}": f"{side} · {folder.name} · {cell}"
        for cell in CELLS
        for side, folder in zip(SIDES, (a, b), strict=True)
    }
    joined = [_join_rows(rows[0][one], rows[1][other]) for one, other in matching.shared]
    compared = CANDIDATE if all(CANDIDATE in found for found in cells) else shared
    return make_item_set(joined, names, (f"A:{compared}", f"B:{compared}"), row_numbers(a / "data"))


def _join_rows(one: Row, other: Row) -> Row:
    both = {
        part: {
            f"{side}:{cell}": value
            for side, row in zip(SIDES, (one, other), strict=True)
            for cell, value in row[part].items()
        }
        for part in ("answers", "declined", "nll", "metrics")
    }
    return {**one, **both}


def comparable_studies(study: Study) -> dict[str, int]:
    """Number of shared held-out items by name of the other evaluated studies: the parent first, then the newest."""
    parent, questions = parent_study(study), _heldout_questions(study)
    others = {}
    for other in Study.all():
        with contextlib.suppress(AssistantBuilderError):
            if other.name != study.name and other.step("evaluate").state == "succeeded":
                others[other.name] = len(questions & _heldout_questions(other))
    return dict(sorted(others.items(), key=lambda pair: pair[0] != parent))  # the sort is stable


def _heldout_questions(study: Study) -> frozenset[int]:
    path = study.cell_folder(tuned_cells(study.config.arms)[0]) / "samples.jsonl"
    return _question_hashes(path, stamp([path]))


@functools.lru_cache(maxsize=64)
def _question_hashes(path: Path, version: str) -> frozenset[int]:
    """Hashes of prompt and reference without the system prompt, as ``evals.study_compare`` matches items."""
    texts = (
        (
            tuple(
                message["content"] for message in sample["prompt"] if message["role"] != "system"
            ),
            sample["reference"],
        )
        for sample in read_jsonl(path, SampleLine)
    )
    return frozenset(map(hash, texts))


def parent_study(study: Study) -> str | None:
    """Name of the study that this one is a corrected copy of, from ``made_from.json``: ``{"study": name}``."""
    path = study.folder / "made_from.json"
    return read_json(path, MadeFrom).get("study") if path.is_file() else None
