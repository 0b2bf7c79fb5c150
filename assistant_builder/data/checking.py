"""Checking pairs: what is empty, repeated, contradictory, too long or odd, all found in one go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from assistant_builder.data.findings import Duplicate, Findings, NearDuplicate, Repeated
from assistant_builder.data.grouping import gives_split
from assistant_builder.data.records import Dataset, Pair, Rejection
from assistant_builder.data.similarity import NearIndex, folded, normalised, sketch
from assistant_builder.data.table import has_text

_CJK = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_MOJIBAKE = re.compile("Ã[\x80-\xbf‚ƒ„…†‡ˆ‰Š‹Œ©¤¶¼¨ª«®±²³´µ¹º»]|â€[\x80-\xbf™œžš¦“”˜]|Â[\xa0°»«£§©®±²³·]")
_HTML = re.compile(r"</(?:p|div|span|a|b|i|em|strong|ul|ol|li|table|tr|td|h[1-6])>|<br ?/?>", re.IGNORECASE)


class TokenCounter(Protocol):
    """What counts the tokens of a pair under a model's chat template."""

    def count_tokens(self, pair: Pair) -> int:
        """Tokens of the whole pair."""


def check_pairs(
    dataset: Dataset,
    *,
    tokenizer: TokenCounter | None = None,
    max_length: int = 512,
    near_duplicate_threshold: float = 0.8,
    room: int | None = None,
) -> Findings:
    """Check a dataset.

    Args:
        dataset: As :func:`assistant_builder.data.load_pairs` read it.
        tokenizer: Counts tokens; None leaves lengths unchecked.
        max_length: Tokens beyond which a pair is over-long.
        near_duplicate_threshold: Jaccard similarity of the word pairs of two questions from which they are
            near-duplicates.
        room: Tokens that the base model can read; longer pairs are left out. None: any length.
    """
    rejected = [*dataset.rejected, *_unusable(dataset.pairs)]
    out = {rejection.row for rejection in rejected}
    counted = [pair for pair in dataset.pairs if tokenizer and pair.row not in out]
    tokens = {pair.row: tokenizer.count_tokens(pair) for pair in counted} if tokenizer else {}
    too_long = [pair for pair in counted if room is not None and tokens[pair.row] > room]
    rejected += (
        Rejection(pair.row, f"it has {tokens[pair.row]:,} tokens, and the model reads {room:,}", pair.to_record())
        for pair in too_long
    )
    out |= {pair.row for pair in too_long}
    usable, duplicates = _each_once(pair for pair in dataset.pairs if pair.row not in out)
    conflicts, reworded = _repeated_questions(usable)
    near = reworded + _near_duplicates(usable, near_duplicate_threshold)
    return Findings(
        dataset=dataset,
        usable=tuple(usable),
        rejected=tuple(sorted(rejected, key=lambda rejection: rejection.row)),
        exact_duplicates=tuple(duplicates),
        near_duplicates=tuple(sorted(near, key=lambda found: found.row)),
        conflicts=tuple(conflicts),
        one_word_answers=tuple(pair.row for pair in usable if _one_word(pair.answer)),
        answers_shared=tuple(_shared_answers(usable)),
        odd_texts=_odd_texts(usable),
        straddling_groups=tuple(_straddling(usable)),
        tokens={pair.row: tokens[pair.row] for pair in usable} if tokens else {},
        max_length=max_length,
        threshold=near_duplicate_threshold,
    )


def _unusable(pairs: Sequence[Pair]) -> Iterable[Rejection]:
    given = sum(pair.split is not None for pair in pairs)
    for pair in pairs:
        if not has_text(pair.question) or not has_text(pair.answer):
            empty = "question" if not has_text(pair.question) else "answer"
            yield Rejection(pair.row, f"the {empty} is empty", pair.to_record())
        elif given and pair.split is None:
            yield Rejection(pair.row, f"it has no split, while {given} other rows have one", pair.to_record())


def _each_once(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Duplicate]]:
    """The pairs without later copies; a copy in another given split is no copy to drop but a leak to show."""
    first: dict[tuple[object, ...], int] = {}
    kept, copies = [], []
    for pair in pairs:
        key = (pair.split, *((message.role, folded(message.content)) for message in pair.messages))
        if key in first:
            copies.append(Duplicate(pair.row, first[key]))
        else:
            first[key] = pair.row
            kept.append(pair)
    return kept, copies


def _repeated_questions(pairs: Sequence[Pair]) -> tuple[list[Repeated], list[NearDuplicate]]:
    """Questions asked more than once: with different answers a conflict, with the same a near-duplicate.

    Conversations of several turns are left out of conflicts, for they may open alike and go on differently.
    """
    asked: dict[tuple[str | None, str], list[Pair]] = {}
    for pair in pairs:
        if pair.turns == 1:
            asked.setdefault((pair.system, normalised(pair.question)), []).append(pair)
    conflicts, reworded = [], []
    for same in asked.values():
        if len(same) == 1:
            continue
        answers: dict[str, Pair] = {}
        for pair in same:
            earlier = answers.setdefault(normalised(pair.answer), pair)
            if earlier is not pair:
                reworded.append(NearDuplicate(pair.row, earlier.row, 1.0, pair.question, earlier.question))
        if len(answers) > 1:
            conflicts.append(Repeated(same[0].question, tuple(pair.row for pair in same)))
    return conflicts, reworded


def _near_duplicates(pairs: Sequence[Pair], threshold: float) -> list[NearDuplicate]:
    distinct: dict[str, Pair] = {}
    for pair in pairs:
        distinct.setdefault(normalised(pair.compared_question), pair)
    asked = list(distinct.values())
    sketches = sketch([pair.compared_question for pair in asked])
    index = NearIndex(sketches, threshold)
    found = []
    for place, pair in enumerate(asked):
        match = index.nearest(place)
        if match is not None:
            other, similarity = asked[match[0]], match[1]
            found.append(NearDuplicate(pair.row, other.row, round(similarity, 4), pair.question, other.question))
        index.add(place)
    return found


def _shared_answers(pairs: Sequence[Pair]) -> Iterable[Repeated]:
    """Answers given to several different questions; the answer that declines is meant to be shared."""
    shared: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.answerable and pair.turns == 1:
            shared.setdefault(normalised(pair.answer), []).append(pair)
    for same in shared.values():
        if len({normalised(pair.question) for pair in same}) > 1:
            yield Repeated(same[0].answer, tuple(pair.row for pair in same))


def _one_word(answer: str) -> bool:
    return max(len(answer.split()), len(_CJK.findall(answer))) <= 1


def _odd_texts(pairs: Sequence[Pair]) -> dict[str, tuple[int, ...]]:
    kinds: dict[str, list[int]] = {
        "text that looks decoded wrongly (such as Ã© for é)": [],
        "characters that were lost earlier (�)": [],
        "the answer only repeats the question": [],
        "HTML tags in the text (such as <p>), which an assistant learns to write": [],
    }
    garbled, lost, echoed, tagged = kinds.values()
    for pair in pairs:
        texts = [message.content for message in pair.messages if message.role != "system"]
        if any(_MOJIBAKE.search(text) for text in texts):
            garbled.append(pair.row)
        if any("\ufffd" in text for text in texts):
            lost.append(pair.row)
        if normalised(pair.answer) == normalised(pair.question):
            echoed.append(pair.row)
        if any(_HTML.search(text) for text in texts):
            tagged.append(pair.row)
    return {what: tuple(rows) for what, rows in kinds.items() if rows}


def _straddling(pairs: Sequence[Pair]) -> Iterable[str]:
    if not gives_split(pairs):
        return
    sides: dict[str, set[bool]] = {}
    for pair in pairs:
        if pair.group is not None:
            sides.setdefault(pair.group, set()).add(pair.split == "heldout")
    yield from (group for group, seen in sides.items() if len(seen) > 1)
