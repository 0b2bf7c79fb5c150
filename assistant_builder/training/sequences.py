"""The training sequences of a study: whole rows with their facts, none of which is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant_builder.atomic_io import read_json
from assistant_builder.data import load_split
from assistant_builder.data.prepare import row_numbers
from assistant_builder.errors import DataError
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer, Example
from assistant_builder.retrieval.augment import asked_otherwise, repetitions
from assistant_builder.retrieval.grounding import (
    Grounder,
    grounded_example,
    grounded_pairs,
    read_contexts,
    row_limit,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary

if TYPE_CHECKING:
    from assistant_builder.data import Pair, SplitName

MOST_LEFT_OUT = 0.5
"""Share of the rows of a split above which a training is refused, because it would learn something else."""
STEP = 32  # limits that follow the data are multiples of this number of tokens


@dataclass(frozen=True)
class Sequences:
    """The training sequences of one split.

    Attributes:
        pairs: The pairs, with facts in their prompts if the approach is grounded.
        examples: Their sequences.
        too_long: Row → tokens of its longest sequence, of rows that are left out.
    """

    pairs: list[Pair]
    examples: list[Example]
    too_long: Mapping[int, int]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, as a limit."""
        return rounded(max(len(example.input_ids) for example in self.examples))


def rounded(tokens: int) -> int:
    """A limit for sequences of ``tokens``."""
    return -(-tokens // STEP) * STEP


def load_sequences(study: Study, split: SplitName, prompter: ChatTokenizer) -> Sequences:
    """Load a split and write facts into its prompts.

    Rows of more tokens than ``train.max_length``, or than the context of the base, are left out whole, with all their
    turns. Such a row has lost all facts but one.

    Raises:
        DataError: Most rows would be left out; the error says which value would suffice.
        StudyError: The study is grounded and has no index.
    """
    config = study.config
    limit = row_limit(config.train.max_length, prompter.context)
    rows: list[tuple[Pair, list[Example]]] = []
    longest: dict[int, int] = {}
    for pair in _pairs(study, split, prompter, limit):
        examples = (
            [grounded_example(pair, prompter)] if config.grounded else prompter.examples(pair)
        )
        lengths = (len(example.input_ids) for example in examples)
        longest[pair.row] = max(longest.get(pair.row, 0), *lengths)
        rows.append((pair, examples))
    too_long = {row: tokens for row, tokens in longest.items() if tokens > limit}
    if len(too_long) == len(longest) or len(too_long) > MOST_LEFT_OUT * len(longest):
        raise _refused(study, split, too_long, len(longest), limit, prompter.context)
    rows = [row for row in rows if row[0].row not in too_long]
    trained = [example for _, examples in rows for example in examples]
    return Sequences([pair for pair, _ in rows], trained, too_long)


def _pairs(study: Study, split: SplitName, prompter: ChatTokenizer, limit: int) -> Iterable[Pair]:
    pairs, config = load_split(study.folder / "data", split), study.config
    if not config.grounded:
        yield from pairs
        return
    contexts, grounder = read_contexts(study.retrieval_folder, split), Grounder.of(study, prompter)
    if split != "train":
        yield from grounded_pairs(pairs, contexts, grounder, None, limit)
        return
    seed = config.train.seed
    for time in range(repetitions(sum(pair.turns for pair in pairs if pair.answerable))):
        other = seed + 1000 * time  # seeds of a study are consecutive
        asked = asked_otherwise(pairs, other, typed=time > 0)
        yield from grounded_pairs(asked, contexts, grounder, other, limit)


def _refused(
    study: Study, split: SplitName, too_long: Mapping[int, int], rows: int, limit: int, context: int
) -> DataError:
    where = m("{study} {name}", name=study.name)
    if not too_long:
        return DataError(
            m("no {split} row has an answer to learn", split=split),
            where=where,
            remedy=m("Add questions with answers"),
        )
    counts = {"long": len(too_long), "rows": rows, "split": split, "limit": limit}
    example = _longest_row(study, too_long)
    if limit == context:
        return DataError(
            m(
                "{long:,} of {rows:,} {split} rows are longer than the {limit:,} tokens that the base model reads: "
                "{example}",
                **counts,
                example=example,
            ),
            where=where,
            remedy=m("Shorten them, or choose a base model with a longer context"),
        )
    return DataError(
        m(
            "{long:,} of {rows:,} {split} rows are longer than the {limit:,} tokens of {train.max_length}: "
            "{example}",
            **counts,
            example=example,
        ),
        where=where,
        remedy=m(
            "Set {train.max_length=auto}, or at least {rounded}",
            rounded=rounded(max(too_long.values())),
        ),
    )


def _longest_row(study: Study, too_long: Mapping[int, int]) -> str:
    # in words: ``row 12 has 9,000 tokens``
    row = max(too_long, key=lambda row: too_long[row])
    return f"row {row_numbers(study.folder / 'data').shown(row)} has {too_long[row]:,} tokens"


def left_out_note(study: Study, run: str) -> str:
    """What a training left out, in one sentence; empty if it left out nothing."""
    path = study.arm_folder(run) / "summary.json"
    summary = read_json(path, ArmSummary) if path.is_file() else {}
    too_long = {int(row): tokens for row, tokens in summary.get("left_out", {}).items()}
    if not too_long:
        return ""
    were = "row was" if len(too_long) == 1 else "rows were"
    return (
        f"{len(too_long):,} {were} left out of the training, longer than {summary['max_length']:,} tokens "
        f"(train.max_length): {_longest_row(study, too_long)}."
    )
