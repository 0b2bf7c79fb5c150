"""Units of a split, the facts that pairs are wordings of, and the draw of units by the hash of a seed and their text.

The draw does not depend on machine and row order, and added rows change few of the other units.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import SPLITS, Pair, group_by
from assistant_builder.i18n import Text, all_of, m, mn


def unit_of(pair: Pair) -> str:
    """The unit that is never divided between splits: the group, or all rows with the same question."""
    if pair.group is not None:
        return f"group {pair.group}"
    return f"question {casefold_normalize(pair.compared_question)}"


def fact_of(pair: Pair) -> str | None:
    """The fact that a pair is a wording of: its cluster, else its answer; None for declines and conversations."""
    if not pair.answerable or pair.turns != 1:
        return None
    return (
        f"cluster {pair.cluster}"
        if pair.cluster is not None
        else f"answer {casefold_normalize(pair.answer)}"
    )


def has_given_split(pairs: Iterable[Pair]) -> bool:
    """Whether the file specifies the split of any row."""
    return any(pair.split is not None for pair in pairs)


def straddling_groups(sides: Iterable[tuple[Pair, object]]) -> list[str]:
    """Groups whose pairs are on several sides, in order of appearance; only a given split can have any."""
    seen: dict[str | None, set[object]] = {}
    for pair, side in sides:
        seen.setdefault(pair.group, set()).add(side)
    return [group for group, found in seen.items() if group is not None and len(found) > 1]


def too_few_units(pairs: Sequence[Pair]) -> tuple[Text, Text] | None:
    """The problem and its remedy if train, validation and held-out cannot have one unit each, else None."""
    if not pairs:
        return m("no usable pair is left"), m(
            "Check the reasons of the rejected rows, and correct or add rows"
        )
    if has_given_split(pairs):
        return _too_few_given_units(pairs)
    count, grouped = len(group_by(pairs, unit_of)), any(pair.group is not None for pair in pairs)
    if count >= len(SPLITS):
        return None
    if len(pairs) < len(SPLITS):
        return mn(
            "only {count} usable pair: training, validation and test each need one",
            "only {count} usable pairs: training, validation and test each need one",
            len(pairs),
        ), m("Add rows: 3 are the minimum, and a conclusive result needs several hundred")
    if grouped:
        return mn(
            "the {pairs} usable pairs form only {count} group, and a split needs at least 3",
            "the {pairs} usable pairs form only {count} groups, and a split needs at least 3",
            count,
            pairs=len(pairs),
        ), m(
            "Map another column as the group ({--set data.columns.group=NAME}) or none ({--set data.columns.group=''})"
        )
    return mn(
        "the {pairs} usable pairs form only {count} question, and a split needs at least 3",
        "the {pairs} usable pairs form only {count} questions, and a split needs at least 3",
        count,
        pairs=len(pairs),
    ), m("Add rows with other questions")


def _too_few_given_units(pairs: Sequence[Pair]) -> tuple[Text, Text] | None:
    train = [pair for pair in pairs if pair.split == "train"]
    if not train:
        return m("the given split has no training rows"), m(
            "Mark rows with the split 'train', or remove the split column"
        )
    absent = [split for split in SPLITS if not any(pair.split == split for pair in pairs)]
    units = group_by(train, unit_of).keys()
    free = units - {unit_of(pair) for pair in pairs if pair.split != "train"}
    if (len(free) >= len(absent) or answers_occur_once(train)) and len(units) > len(absent):
        return None  # nothing is drawn from rows whose answers occur once
    names = all_of(absent)
    return mn(
        "the training rows form {count} unit ({free} in no other split), too few to draw {names} from them",
        "the training rows form {count} units ({free} in no other split), too few to draw {names} from them",
        len(units),
        free=len(free),
        names=names,
    ), m("Mark rows with the split {names}, or add training rows", names=names)


def hash_order(units: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Units in the order of the hashes of seed, purpose and unit."""

    def key(unit: str) -> tuple[bytes, str]:
        text = f"{seed}\0{purpose}\0{unit}".encode(errors="surrogatepass")
        return hashlib.sha256(text).digest(), unit

    return sorted(units, key=key)


def take(
    units: Mapping[str, Sequence[Pair]], order: Iterable[str], target: int, leave: int = 0
) -> set[str]:
    """Complete units in an order, until they have as nearly ``target`` pairs as possible; ``leave`` units are left."""
    taken: set[str] = set()
    count = 0
    for unit in order:
        if len(units) - len(taken) <= leave:
            break
        if abs(count + len(units[unit]) - target) < abs(count - target):
            taken.add(unit)
            count += len(units[unit])
    return taken


def draw(
    pairs: Sequence[Pair],
    fraction: float,
    seed: int,
    purpose: str,
    *,
    leave: int,
    elsewhere: Collection[str] = (),
) -> tuple[list[Pair], list[Pair]]:
    """Draw complete units until their size is as close to the fraction as possible, leaving at least ``leave`` units.

    Units whose facts keep another wording in the rest are drawn first, so that a test asks for answers that training
    has; ``elsewhere`` are the facts of another set that was drawn. Returns the drawn pairs (at least one unit) and the
    rest, both in file order.
    """
    units = group_by(pairs, unit_of)
    order = _reworded_first(units, hash_order(units, seed, purpose), elsewhere)
    # a single held-out item has no confidence interval
    minimum = 2 if purpose == "heldout" and len(units) > leave + 1 else 1
    target = max(minimum, round(fraction * len(pairs)))
    drawn = take(units, order, target, leave)
    if not drawn:  # every unit is larger than twice the target
        drawn.add(min(order, key=lambda unit: len(units[unit])))
    chosen = [pair for pair in pairs if unit_of(pair) in drawn]
    return chosen, [pair for pair in pairs if unit_of(pair) not in drawn]


def _reworded_first(
    units: dict[str, list[Pair]], order: list[str], elsewhere: Collection[str]
) -> list[str]:
    """``order`` with the units first whose facts keep another wording, and those last that are the only wording left.

    ``elsewhere`` are facts that are drawn already. Units without facts keep their places.
    """
    total = Counter(fact for pairs in units.values() for fact in count_facts(pairs))
    left = total.copy()
    ranks: tuple[list[str], list[str], list[str]] = ([], [], [])
    for unit in order:
        facts = count_facts(units[unit])
        if facts and all(left[fact] > number for fact, number in facts.items()):
            left.subtract(facts)
            ranks[0].append(unit)
        elif facts:
            needed = any(fact in elsewhere or total[fact] > facts[fact] for fact in facts)
            ranks[2 if needed else 1].append(unit)
    moved = iter([unit for rank in ranks for unit in rank])
    return [next(moved) if count_facts(units[unit]) else unit for unit in order]


def count_facts(pairs: Iterable[Pair]) -> Counter[str]:
    """The facts of pairs and how many wordings of each there are; a respelled question is no wording of its own."""
    return Counter(
        fact for pair in pairs if pair.respelled is None and (fact := fact_of(pair)) is not None
    )


def answers_occur_once(pairs: Iterable[Pair]) -> bool:
    """Whether most facts have one wording."""
    facts = count_facts(pairs)
    return 2 * sum(number == 1 for number in facts.values()) > len(facts)


def sample_units(pairs: Sequence[Pair], limit: int, seed: int, split: str) -> list[Pair]:
    """Complete units in the order of their hashes that fit the limit, in file order; a part of one if none fits."""
    units = group_by(pairs, unit_of)
    order = hash_order(units, seed, f"sample {split}")
    kept: list[Pair] = []
    for unit in order:
        if len(kept) + len(units[unit]) <= limit:
            kept += units[unit]
    if not kept:  # every unit is larger than the limit
        kept = units[order[0]][:limit]
    rows = {pair.row for pair in kept}
    return [pair for pair in pairs if pair.row in rows]
