"""Splits of files whose answers occur once: no fact is held out, so that all are trained and looked up.

Test and validation take what training can do without: further wordings of facts, and questions to decline; of a file
that gives the split, what it gives. Without any wordings they get questions of training, respelled, so that the steps
have pairs; what the assistant does with other words is then not tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assistant_builder.config import DataConfig
from assistant_builder.data.respell import respelled
from assistant_builder.data.types import Pair, SplitName, group_by
from assistant_builder.data.units import count_facts, fact_of, hash_order, take, unit_of

LEAST_WORDINGS = 10
"""Wordings below which validation is made of respelled questions, and the user is asked for more of them."""
_FEWEST = 2
"""Facts of any test: a single one has no confidence interval."""
_LEAST_FACTS = 6
"""Facts that a drawn test asks for at least: if fewer are all answered right, the 95 % interval of the share of right
answers (Clopper–Pearson) still begins below one half."""
_FACT_WORDS = 3
"""Words of an answer by which rows without a cluster are wordings of one fact; "Yes." answers many questions."""


def draw_wordings(
    pairs: Sequence[Pair], config: DataConfig, name: SplitName
) -> tuple[list[Pair], list[Pair]]:
    """Draw complete units that training can do without; the first row of each fact is left.

    The wordings of other rows are drawn up to the fraction of all pairs, or none if they are too few, and the questions
    to decline by their own share.

    Args:
        pairs: Pairs to draw from.
        config: Fractions and seed.
        name: ``heldout`` or ``validation``.

    Returns:
        The drawn pairs and the rest, both in file order.
    """
    fraction = config.heldout_fraction if name == "heldout" else config.validation_fraction
    first: dict[str | None, int] = {}
    for pair in pairs:
        first.setdefault(fact_of(pair), pair.row)
    free = {
        unit: found
        for unit, found in group_by(pairs, unit_of).items()
        if all(not pair.answerable or _is_further(pair, first) for pair in found)
    }
    wordings = {
        unit: found for unit, found in free.items() if any(pair.answerable for pair in found)
    }
    declines = {unit: found for unit, found in free.items() if unit not in wordings}
    target = round(fraction * len(pairs))
    drawn = take(wordings, hash_order(wordings, config.seed, name), target)
    least = _least_facts(target) if name == "heldout" else min(LEAST_WORDINGS, target)
    if len(count_facts(pair for unit in drawn for pair in wordings[unit])) < least:
        drawn = set()
    drawn |= take(
        declines,
        hash_order(declines, config.seed, name),
        round(fraction * sum(map(len, declines.values()))),
    )
    return [pair for pair in pairs if unit_of(pair) in drawn], [
        pair for pair in pairs if unit_of(pair) not in drawn
    ]


def _is_further(pair: Pair, first: dict[str | None, int]) -> bool:
    fact = fact_of(pair)
    named = pair.cluster is not None or len(pair.answer.split()) >= _FACT_WORDS
    return fact is not None and named and first[fact] != pair.row


def _least_facts(target: int) -> int:
    """Facts that a drawn test of ``target`` questions asks for at least."""
    return min(_LEAST_FACTS, max(_FEWEST, target))


def leave_few_wordings(sets: dict[SplitName, list[Pair]], config: DataConfig) -> None:
    """Move the questions of a drawn test to training if they ask for too few facts."""
    target = round(config.heldout_fraction * sum(map(len, sets.values())))
    if len(count_facts(sets["heldout"])) < _least_facts(target):
        moved = [pair for pair in sets["heldout"] if pair.answerable]
        sets["heldout"] = [pair for pair in sets["heldout"] if not pair.answerable]
        sets["train"] = sorted([*sets["train"], *moved], key=lambda pair: pair.row)


def add_respelled(
    sets: dict[SplitName, list[Pair]],
    config: DataConfig,
    names: Iterable[SplitName],
    first_row: int,
) -> None:
    """Add respelled questions of training to each of the named splits that asks for no answer.

    Args:
        sets: The splits, which are changed.
        config: Fractions, seed and ``max_heldout``.
        names: Splits to complete.
        first_row: Number of the first copy; the file has no row of this number or a higher one.
    """
    usable = [pair for pair in sets["train"] if pair.answerable and pair.turns == 1] or sets[
        "train"
    ]
    by_unit = group_by(usable, unit_of)
    order = [
        pair for unit in hash_order(by_unit, config.seed, "respelled") for pair in by_unit[unit]
    ]
    for name in names:
        if any(pair.answerable for pair in sets[name]):
            continue
        if name == "heldout":
            count = max(_FEWEST, round(config.heldout_fraction * len(sets["train"])))
            chosen = order[
                : count if config.max_heldout is None else min(count, config.max_heldout)
            ]
        else:  # from the other end, so that both have the same questions only in a very small file
            chosen = order[-max(_FEWEST, round(config.validation_fraction * len(sets["train"]))) :]
        copies = sorted(chosen, key=lambda pair: pair.row)
        sets[name] = [
            *sets[name],
            *(respelled(pair, row, config.seed) for row, pair in enumerate(copies, first_row)),
        ]
        first_row += len(copies)
