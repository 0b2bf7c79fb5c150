"""What is looked up for the last question of a conversation, and what is answered.

Every client may send a whole conversation. An assistant that was trained on single questions answers a question wrongly
after other turns, so the question is looked up and prompted alone: earlier turns cannot change the answer to a question
that needs none of them. A short question may refer to the turn before ("And on Mondays?"). It is looked up a second
time with that turn, and the second answer is given where the first look declines, where the fact of the second also has
the words of the question, or where the second is far more certain. A fact with the words of the question needs less
confidence: without them, the second look often finds what was asked before ("How old is she?"). A thing that only the
short question names must be in that fact: "And for a child?" is not answered with the fare of adults. Assistants of
conversations, whose training data have earlier turns, read them in their prompts as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Message
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.words import bare_words, content_words
from assistant_builder.retrieval.grounding import query_of
from assistant_builder.retrieval.index import Fact, Query
from assistant_builder.retrieval.parts import PRONOUNS, QUESTION_WORDS
from assistant_builder.study import Study
from assistant_builder.study.contents import Split

if TYPE_CHECKING:
    from assistant_builder.retrieval.decline import DeclineRule

FOLLOW_UP_WORDS = 2
"""Content words up to which a question may refer to an earlier turn: 15 of 26 follow-ups have one at most, 23 two; of
the 352 held-out questions of the demo none has one, and one has two."""
ELLIPTIC_WORDS = 1
"""Content words up to which the second look replaces an answer of the first where it is far more certain."""
FAR_SURER = 9.0
"""Ratio of the odds from which the second look of an elliptic question replaces an answer of the first."""
# words of a fact with which an answer must begin to choose it: many facts begin with "The"
_CHOOSING = 2
# earlier questions that the second look reads at most; more than one only where the later ones are elliptic
_EARLIER = 3
CONVERSATIONS = 0.2
"""Share of the training answers that follow other turns, from which an assistant reads earlier turns in its prompt."""


@dataclass(frozen=True)
class Look:
    """One look-up for a question.

    Attributes:
        query: What is searched.
        messages: The prompt, to which facts are added.
    """

    query: Query
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Look:
        """The question with all earlier turns, in the search and in the prompt."""
        return cls(query_of(messages), tuple(messages))


def alone(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The system prompt and the last message."""
    return (*(message for message in messages if message.role == "system"), messages[-1])


def looks(messages: Sequence[Message], *, conversations: bool) -> tuple[Look, Look | None]:
    """The first look for the last question of a conversation, and the second, if there may be one.

    Args:
        messages: A conversation that ends with a question.
        conversations: Whether the assistant was trained on conversations.
    """
    single = Look.of(alone(messages))
    earlier = [message.content for message in messages[:-1] if message.role == "user"]
    if not earlier:
        return single, None
    short = len(content_words(messages[-1].content)) <= FOLLOW_UP_WORDS
    if conversations:
        whole = Look.of(messages)
        return (whole, single) if short else (single, whole)
    if not short:
        return single, None
    count, most = 1, min(len(earlier), _EARLIER)
    while count < most and len(content_words(earlier[-count])) <= ELLIPTIC_WORDS:
        count += 1
    return single, Look(Query(messages[-1].content, "\n".join(earlier[-count:])), single.messages)


@dataclass(frozen=True)
class Judged:
    """What one look led to: the rule's confidence in it, and the best fact; ``None`` if no fact is in the prompt."""

    confidence: float
    fact: Fact | None


def settle(
    rule: DeclineRule,
    question: str,
    first: Judged,
    second: Callable[[], Judged] | None,
    earlier: str = "",
) -> int | None:
    """The look whose answer is given: 0 or 1; ``None`` to decline.

    Args:
        rule: The rule for declining.
        question: The last question.
        first: The result of the first look.
        second: Takes the second look, which costs an answer; ``None`` if there is none.
        earlier: The earlier questions that the second look reads.
    """
    answered = first.fact is not None and first.confidence >= rule.threshold
    words = content_words(question)
    if second is None or (answered and len(words) > FOLLOW_UP_WORDS):
        return 0 if answered else None
    other = second()
    if other.fact is None or (answered and first.fact and other.fact.answer == first.fact.answer):
        return 0 if answered else None
    added = added_words(question, earlier) if earlier else []
    if added and not any(_mentions(other.fact, [word]) for word in added):
        return 0 if answered else None
    named = _mentions(other.fact, words)
    if other.confidence < (rule.named_threshold if named and words else rule.follow_up_threshold):
        return 0 if answered else None
    far_surer = len(words) <= ELLIPTIC_WORDS and _odds(other) >= FAR_SURER * _odds(first)
    return 1 if not answered or named or far_surer else 0


def added_words(question: str, earlier: str) -> list[str]:
    """The content words of a follow-up that name a thing which the earlier questions do not.

    A word after a question word or a pronoun says what is asked of the thing ("From what time?", "Does it cost?").
    """
    words = bare_words(question)
    asked = {word for before, word in pairwise(words) if before in QUESTION_WORDS | PRONOUNS}
    known = bare_words(earlier)
    return [word for word in content_words(question) if word not in asked and not _has(known, word)]


def _mentions(fact: Fact, words: Sequence[str]) -> bool:
    known = bare_words(f"{fact.question} {fact.answer}")
    return all(_has(known, word) for word in words)


def _has(words: Sequence[str], word: str) -> bool:
    return any(
        other.startswith(word) or (len(other) > 2 and word.startswith(other)) for other in words
    )


def _odds(judged: Judged) -> float:
    return judged.confidence / max(1 - judged.confidence, 1e-12)


def own_words(text: str, answers: Sequence[str], *, complete: bool = True) -> str | None:
    """The fact that an answer repeats, in the fact's own words.

    An assistant that repeats facts word for word is wrong where it does not, so its answer only chooses the fact: the
    one with which it has most words of its beginning in common, or the best where it begins as none.

    Args:
        text: The answer so far.
        answers: The answers of the facts in the prompt, the best first.
        complete: Whether the text is complete.

    Returns:
        One of ``answers``; ``None`` while more text is needed to choose.
    """
    begun = bare_words(text)
    whole = begun if complete else begun[:-1]  # the last word may go on
    facts = [bare_words(answer) for answer in answers]
    common = [len(os.path.commonprefix([list(whole), list(fact)])) for fact in facts]
    longest = max(common)
    open_ended = longest < _CHOOSING or common.count(longest) > 1
    if not complete and longest == len(whole) and open_ended:
        return None
    same = [answer for answer, fact in zip(answers, facts, strict=True) if fact == whole]
    return same[0] if same else answers[common.index(longest) if longest >= _CHOOSING else 0]


def is_verbatim(text: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of the facts word for word, apart from case and outer punctuation."""
    return casefold_normalize(text) in map(casefold_normalize, answers)


def reads_conversations(study: Study) -> bool:
    """Whether the share :data:`CONVERSATIONS` of a study's training answers follows other turns."""
    path = study.folder / "data" / "split.json"
    split = read_json(path, Split) if path.is_file() else {}
    pairs, turns = (split.get(key, {}).get("train", 0) for key in ("counts", "turns"))
    return bool(turns and (turns - pairs) / turns >= CONVERSATIONS)
