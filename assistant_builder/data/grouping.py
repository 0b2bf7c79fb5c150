"""What must stay together when pairs are split, and whether there is enough of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assistant_builder.data.records import SPLITS, Pair
from assistant_builder.data.similarity import normalised


def unit_of(pair: Pair) -> str:
    """The unit that never straddles the splits: the group, or all askings of one question where there is no group."""
    if pair.group is not None:
        return f"group {pair.group}"
    return f"question {normalised(pair.compared_question)}"


def units(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Unit → its pairs, in the order given."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(unit_of(pair), []).append(pair)
    return found


def gives_split(pairs: Iterable[Pair]) -> bool:
    """Whether the file says which split its rows belong to."""
    return any(pair.split is not None for pair in pairs)


def shortage(pairs: Sequence[Pair]) -> tuple[str, str] | None:
    """What is missing for a train, a validation and a held-out split of at least one unit each.

    Returns:
        What is too few and what to do about it; None if there is enough.
    """
    if not pairs:
        return "no usable pair is left", "Look at the reasons of the rejected rows, and mend or add rows"
    if gives_split(pairs):
        train = [pair for pair in pairs if pair.split == "train"]
        absent = [split for split in SPLITS if split != "train" and not any(pair.split == split for pair in pairs)]
        if not train:
            return "the given split has no training rows", "Mark rows with the split 'train', or leave the column out"
        elsewhere = {unit_of(pair) for pair in pairs if pair.split != "train"}
        free = units(train).keys() - elsewhere
        if len(free) < len(absent) or len(units(train)) < 1 + len(absent):
            return (
                f"the training rows form {len(units(train))} units ({len(free)} of them found in no other split), too "
                f"few to cut {' and '.join(absent)} from them",
                f"Mark rows with the split {' and '.join(absent)}, or add training rows",
            )
        return None
    count = len(units(pairs))
    if count >= len(SPLITS):
        return None
    if len(pairs) >= len(SPLITS):
        grouped = any(pair.group is not None for pair in pairs)
        kind = "group" if grouped else "question"
        remedy = (
            "Map another column as the group (--set data.columns.group=NAME) or none (--set data.columns.group='')"
            if grouped
            else "Add rows that ask something else"
        )
        many = f"{count} {kind}{'s' if count != 1 else ''}"
        return f"its {len(pairs)} usable pairs form only {many}, and a split needs at least 3", remedy
    return (
        f"only {len(pairs)} usable pair{'s' if len(pairs) != 1 else ''}, and training, validation and held-out test "
        "need at least one each",
        "Add rows: 3 are the least, and some hundreds are needed for a result that means something",
    )
