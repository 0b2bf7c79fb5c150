"""Which held-out items two studies share, and which of them the other study was trained on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.data import load_split
from assistant_builder.data.similarity import normalised
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from evals.report.reading import BASELINE, CANDIDATE, Cell

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Matching:
    """The items of two studies, side by side.

    Attributes:
        shared: Names of an item in the first study and in the second, in the first study's order.
        only_a: Items that the first study alone has.
        only_b: Items that the second alone has.
        other_system: Shared items that the two asked under different system prompts.
    """

    shared: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_system: int


def shared_cell(a: Mapping[str, Cell], b: Mapping[str, Cell]) -> str:
    """A cell that two studies both have, by whose items they are matched: that of an assistant, if there is one.

    Raises:
        EvaluationError: There is none.
    """
    found = next((name for name in (BASELINE, CANDIDATE, *a) if name in a and name in b), None)
    if found is None:
        raise EvaluationError(
            f"the studies share no cell: scored are {', '.join(a)} and {', '.join(b)}", where="compare",
            remedy="Train the same arms in both (arms), or score the same cells (eval.cells)",
        )
    return found


def match_items(a: Cell, b: Cell) -> Matching:
    """Pair items by what was asked and what the reference is; row numbers mean nothing across data files.

    Items asked under the same system prompt find each other first, then those that differ in nothing else, so that two
    system prompts can be compared. Of items that a study holds twice the first goes with the first.
    """
    exact, left_a, left_b = _paired(a.samples, b.samples, _with_system)
    others, left_a, left_b = _paired(left_a, left_b, _without_system)
    place = {item: number for number, item in enumerate(a.by_item)}
    shared = sorted(exact + others, key=lambda pair: place[pair[0]])
    return Matching(
        tuple(shared), tuple(str(sample["item"]) for sample in left_a), tuple(str(sample["item"]) for sample in left_b),
        len(others),
    )


def _paired(
    a: Sequence[Sample], b: Sequence[Sample], key: Callable[[Sample], Hashable]
) -> tuple[list[tuple[str, str]], list[Sample], list[Sample]]:
    """Pairs of item names, and the samples left over on either side."""
    waiting: dict[Hashable, list[Sample]] = {}
    for sample in b:
        waiting.setdefault(key(sample), []).append(sample)
    pairs, left = [], []
    for sample in a:
        same = waiting.get(key(sample))
        if same:
            pairs.append((str(sample["item"]), str(same.pop(0)["item"])))
        else:
            left.append(sample)
    return pairs, left, [sample for samples in waiting.values() for sample in samples]


def _with_system(sample: Sample) -> Hashable:
    return tuple((message["role"], message["content"]) for message in sample["prompt"]), sample["reference"]


def _without_system(sample: Sample) -> Hashable:
    messages = [message for message in sample["prompt"] if message["role"] != "system"]
    return tuple((message["role"], message["content"]) for message in messages), sample["reference"]


def trained_on(study: Study, cell: Cell, other: Study) -> frozenset[str] | None:
    """Held-out items of a study whose question also stands in the other's training or validation split.

    Questions are compared as within a study: the same after setting case, spacing and sentence punctuation aside.

    Args:
        study: The study that holds the items out.
        cell: Any of its scored cells.
        other: The study whose training is looked at.

    Returns:
        Names of items; ``None`` where a study's splits are not on record.

    Raises:
        DataError: A split file was changed after it was frozen.
    """
    folders = [each.folder / "data" for each in (study, other)]
    if not all((folder / "split.json").is_file() for folder in folders):
        return None
    seen = {
        normalised(pair.compared_question)
        for split in ("train", "validation") for pair in load_split(folders[1], split)
    }
    rows = {pair.row for pair in load_split(folders[0], "heldout") if normalised(pair.compared_question) in seen}
    return frozenset(str(sample["item"]) for sample in cell.samples if sample["row"] in rows)
