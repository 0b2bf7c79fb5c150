"""Grounded prompts: the facts that were found for a question, in the system prompt before the conversation.

Facts are training pairs. The nearest comes last, next to the question, because small models attend to what they read
last. Training sees the supporting fact in every prompt: in another wording if the data have one, else as the row's own
pair (RAFT, arXiv 2403.10131, also trains on prompts without it; here that taught assistants to decline unusual
wordings).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Len
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_jsonl, write_jsonl
from assistant_builder.data import Message, Pair, TokenCounter
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.retrieval.index import Fact, Hit, Index, Query, facts_of, on_grid
from assistant_builder.retrieval.ranking import WITHIN
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit

if TYPE_CHECKING:
    from assistant_builder.models.chat_template import ChatTokenizer, Example

FACT, BETWEEN, BEFORE = "Q: {question}\nA: {answer}", "\n", "\n\n"
"""A fact in a prompt, and the text between facts and before the first of them."""
STATEMENT = "{question}"
"""A statement in a prompt: its question is its headings and text."""
CONTEXTS = "contexts.jsonl"
"""File in the folder of the index: what was found for each training and validation question."""
DEPTH = 10  # facts with distinct answers that are kept for each question
# share of the training rows whose search leaves out the nearest wordings of their fact: among training questions the
# nearest is nearly always the right one, and less often among new ones, so that an assistant that copies it is not
# better than looking up
_HARDER = 0.5
# distance from the best score of the facts in half of the training prompts, so that choosing among facts is trained
# more often than it is needed
_WIDER = 0.3
# share of the training rows with the row's own pair in the prompt although another wording of its fact is there, so
# that a question of the data is answered with its answer
_OWN_PAIR = 0.2


def query_of(messages: Sequence[Message]) -> Query:
    """The last question of a conversation, with the earlier ones as its history."""
    asked = [message.content for message in messages if message.role == "user"]
    return Query(asked[-1] if asked else "", "\n".join(asked[:-1]))


def supports(fact: Fact, target: Fact) -> bool:
    """Whether a fact states what ``target`` asks: it has the same cluster, or the same answer."""
    same = fact.cluster is not None and fact.clusters <= target.clusters
    return same or casefold_normalize(fact.answer) == casefold_normalize(target.answer)


def supporting(index: Index, targets: Sequence[Fact]) -> list[set[int]]:
    """For each of n targets, the rows of the facts that support it, see :func:`supports`."""
    rows: dict[str, set[int]] = {}
    for fact in index.facts:
        for key in _shared_keys(fact):
            rows.setdefault(key, set()).add(fact.row)
    return [set().union(*(rows.get(key, ()) for key in _shared_keys(target))) for target in targets]


def _shared_keys(fact: Fact) -> set[str]:
    return {f"answer {fact.answer_key}", *(f"cluster {each}" for each in fact.clusters)}


@dataclass(frozen=True)
class Grounder:
    """Writes facts into prompts.

    Attributes:
        prompter: Tokenizer of the base.
        count: Most facts in a prompt.
        limit: Most tokens of a prompt with facts: the context of the base without the room for an answer.
        answer: Tokens of a context that facts leave to the answer.
    """

    prompter: ChatTokenizer
    count: int
    limit: int
    answer: int = 0

    @classmethod
    def of(cls, study: Study, prompter: ChatTokenizer) -> Grounder:
        """The grounder of a study: prompts leave room for the longest answer, at most half of the base's context."""
        answer = min(answer_limit(study), prompter.context // 2)
        return cls(prompter, study.config.retrieval.facts, prompter.context - answer, answer)

    def ground(
        self, messages: Sequence[Message], facts: Sequence[Fact], context: int | None = None
    ) -> tuple[list[Message], list[Fact]]:
        """The conversation with facts in its system prompt, and the facts in it.

        Args:
            messages: A conversation that ends with a question.
            facts: Facts, the nearest first; of those that do not fit the farthest are left out.
            context: Tokens that a prompt and its answer may have together, if fewer than the context of the base.

        Returns:
            The conversation as it is, and no facts, if not even the nearest fact fits.
        """
        limit = self.limit if context is None else min(self.limit, context - self.answer)
        for count in range(min(self.count, len(facts)), 0, -1):
            grounded = with_facts(messages, facts[:count])
            if len(self.prompter.prompt_ids(grounded)) <= limit:
                return grounded, list(facts[:count])
        return list(messages), []


def with_facts(messages: Sequence[Message], facts: Sequence[Fact]) -> list[Message]:
    """The conversation with facts at the end of its system prompt, the first fact last."""
    own = [message.content for message in messages if message.role == "system"]
    texts = (
        (STATEMENT if fact.is_passage else FACT).format(question=fact.question, answer=fact.answer)
        for fact in reversed(facts)
    )
    system = Message("system", BEFORE.join([*own, BETWEEN.join(texts)]))
    return [system, *(message for message in messages if message.role != "system")]


def shown_facts(hits: Sequence[Hit], within: float = WITHIN) -> list[Fact]:
    """The facts of the hits that may be written into a prompt: answerable ones, nearly as good as the best of them."""
    usable = [hit for hit in hits if hit.fact.answerable]
    return [hit.fact for hit in usable if hit.score >= usable[0].score - within]


def training_facts(target: Fact, hits: Sequence[Hit], count: int, seed: int | None) -> list[Fact]:
    """The facts in the prompt of a training or validation turn, the nearest first, with one that supports its answer.

    Args:
        target: The turn itself.
        hits: What was found for its question without its own row.
        count: Facts in a prompt.
        seed: Seed of the choices, which do not depend on other rows; ``None``: the own pair is there only if no other
            fact supports the answer, and a fact that was not found is the farthest.
    """
    rng = random.Random(f"{seed}/{target.row}/{target.turn}")
    own = seed is not None and rng.random() < _OWN_PAIR
    answerable = (hit.fact for hit in hits if hit.fact.answerable)
    other = next((fact for fact in answerable if supports(fact, target)), None)
    facts = shown_facts(hits, WITHIN if seed is None or rng.random() < 0.5 else _WIDER)[:count]
    if own or other not in facts:
        facts = [fact for fact in facts if not supports(fact, target)][: count - 1]
        place = 0 if own else len(facts) if seed is None else rng.randrange(len(facts) + 1)
        facts.insert(place, target if own or other is None else other)
    return facts


def training_passages(
    target: Fact, hits: Sequence[Hit], count: int, seed: int | None
) -> list[Fact]:
    """As :func:`training_facts`, where statements are looked up: every one that the answer rests on is in the prompt.

    The turn itself never is: its answer is to be read from the statements.
    """
    rng = random.Random(f"{seed}/{target.row}/{target.turn}")
    facts = shown_facts(hits, WITHIN if seed is None or rng.random() < 0.5 else _WIDER)[:count]
    needed = [hit.fact for hit in hits if supports(hit.fact, target)]
    for fact in (each for each in needed if each not in facts):
        others = [place for place, each in enumerate(facts) if each not in needed]
        if len(facts) >= count and others:
            del facts[others[-1]]
        facts.insert(len(facts) if seed is None else rng.randrange(len(facts) + 1), fact)
    return facts


def write_contexts(
    folder: Path, index: Index, splits: Iterable[tuple[str, Sequence[Pair], Any]]
) -> Path:
    """Search for each turn of the pairs without its own row, and write what was found.

    In half of the training turns the search also leaves out the nearest wordings of the turn's fact, see ``_HARDER``.

    Args:
        folder: Folder of the index.
        index: The index.
        splits: Name, pairs and vectors of the queries of all their turns.
    """
    numbers = {(fact.row, fact.turn): number for number, fact in enumerate(index.facts)}
    lines = []

    def record(hit: Hit) -> list[float]:
        scores = (hit.similarity, hit.bm25, hit.score, hit.log_share)
        return [numbers[hit.fact.row, hit.fact.turn], *(round(score, 6) for score in scores)]

    for split, pairs, vectors in splits:
        targets = [target for pair in pairs for target in facts_of(pair)]
        left_out = [{target.row} for target in targets]
        passages = index.facts[0].is_passage
        if split == "train" and not passages:
            turns = zip(targets, vectors, supporting(index, targets), strict=True)
            left_out = [_left_out(index, *turn) for turn in turns]
        queries = [target.query for target in targets]
        ranked = index.search(queries, vectors, DEPTH, exclude=left_out)
        if passages:
            ranked = _with_supporting(index, targets, ranked)
        lines += [
            {
                "split": split,
                "row": target.row,
                "turn": target.turn,
                "hits": list(map(record, hits)),
            }
            for target, hits in zip(targets, ranked, strict=True)
        ]
    write_jsonl(folder / CONTEXTS, lines)
    return folder / CONTEXTS


def _with_supporting(
    index: Index, targets: Sequence[Fact], ranked: Sequence[list[Hit]]
) -> list[list[Hit]]:
    """What was found, and then the statements that an answer rests on and that were not found."""
    result = []
    for hits, rows in zip(ranked, supporting(index, targets), strict=True):
        missing = sorted(rows - {hit.fact.row for hit in hits}, reverse=True)
        facts = (index.facts[index.positions[row][0]] for row in missing)
        result.append([*hits, *(Hit(fact, 0.0, 0.0, 0.0) for fact in facts)])
    return result


def _left_out(index: Index, target: Fact, vector: Any, rows: AbstractSet[int]) -> set[int]:
    # rows that the search for a training turn leaves out: its own, and some of ``rows``, those of its fact. In half
    # of the turns these are a random number of the nearest, but not all.
    rng = random.Random(f"wordings/{target.row}/{target.turn}")
    others = sorted(rows - {target.row})
    if len(others) < 2 or rng.random() >= _HARDER:
        return {target.row}
    vector = on_grid(vector)
    near = {
        row: max(float(index.vectors[position] @ vector) for position in index.positions[row])
        for row in others
    }
    others.sort(key=lambda row: (-near[row], row))
    return {target.row, *others[: rng.randrange(1, len(others))]}


class _ContextLine(TypedDict):
    split: str
    row: int
    turn: int
    hits: list[Annotated[list[float], Len(4, 5)]]


def read_contexts(folder: Path, split: str) -> dict[tuple[int, int], list[Hit]]:
    """Row and turn → what was found for its question.

    Raises:
        StudyError: The study has no index.
    """
    path = folder / CONTEXTS
    if not path.exists():
        raise StudyError(
            m("the {study} has no index of its pairs"),
            where=str(folder),
            remedy=m(
                "{Redo}, which builds the index; for more than 100,000 answers, which have none, lower {data.max_train}"
            ),
        )
    facts = Index.load(folder).facts
    lines = read_jsonl(path, _ContextLine)
    try:
        return {
            (line["row"], line["turn"]): [Hit(facts[fact], *rest) for fact, *rest in line["hits"]]
            for line in lines
            if line["split"] == split
        }
    except (TypeError, IndexError) as error:
        raise StudyError(
            m("a line names a fact that the index does not have"),
            where=str(path),
            remedy=m("{Redo} to recreate it"),
        ) from error


def grounded_pairs(
    pairs: Iterable[Pair],
    contexts: dict[tuple[int, int], list[Hit]],
    grounder: Grounder,
    seed: int | None,
    longest: int,
) -> Iterable[Pair]:
    """One pair for each answerable assistant turn, with facts in its system prompt.

    Questions that should be declined are left out: declining is decided by a rule, because adapters that learn it
    decline unusual wordings too. Without a seed (validation) nothing is left to chance. The prompts of validation hold
    a supporting fact as well: else the few questions whose fact was not found would decide the loss, which grows for
    them as the assistant learns to trust what it reads.

    A pair of more than ``longest`` tokens loses its farthest facts, but never the last one that supports its answer, so
    that it may still be longer.
    """
    for pair in pairs:
        if not pair.answerable:
            continue
        ends = [index for index, message in enumerate(pair.messages) if message.role == "assistant"]
        for target, end in zip(facts_of(pair), ends, strict=True):
            hits = contexts.get((target.row, target.turn), [])
            choose = (
                training_passages if any(hit.fact.is_passage for hit in hits) else training_facts
            )
            facts = choose(target, hits, grounder.count, seed)
            turn = replace(pair, messages=pair.messages[: end + 1])
            yield _fitted(turn, facts, target, grounder.prompter, longest)


def _fitted(
    turn: Pair, facts: Sequence[Fact], target: Fact, prompter: ChatTokenizer, longest: int
) -> Pair:
    # the turn with as many of the facts, the nearest first, as ``longest`` tokens allow, but always a supporting one.
    # The last resort is the turn itself as its only fact, which may be shorter than another wording; never where
    # statements are looked up.
    needed = [fact for fact in facts if supports(fact, target)]
    passages = bool(needed) and needed[0].is_passage
    needed = needed if passages else needed[:1]
    while True:
        whole = _with_facts_before(turn, facts)
        if list(facts) == [target] or prompter.count_tokens(whole) <= longest:
            return whole
        farthest = next((fact for fact in reversed(facts) if fact not in needed), None)
        if farthest is None and passages:
            return whole
        facts = [target] if farthest is None else [fact for fact in facts if fact is not farthest]


def _with_facts_before(pair: Pair, facts: Sequence[Fact]) -> Pair:
    return replace(pair, messages=(*with_facts(pair.messages[:-1], facts), pair.messages[-1]))


def with_own_fact(pair: Pair) -> Pair:
    """The shortest pair that the grounded approach can train on; one to decline, which is not trained, as it is."""
    return _with_facts_before(pair, facts_of(pair)[-1:]) if pair.answerable else pair


def grounded_example(pair: Pair, prompter: ChatTokenizer) -> Example:
    """The training sequence of a grounded pair; only its last answer is supervised."""
    from assistant_builder.models.chat_template import Example

    turn = prompter.turns(pair)[-1]
    supervised = (False,) * len(turn.prompt_ids) + (True,) * len(turn.answer_ids)
    return Example((*turn.prompt_ids, *turn.answer_ids), supervised)


# tokens that a chat template adds to a pair at most, apart from a system prompt of its own
_TEMPLATE_TOKENS = 200


def row_limit(max_length: int | Literal["auto"], context: int) -> int:
    """Most tokens of a training row: ``train.max_length``, at most the ``context`` of the base."""
    return context if max_length == "auto" else min(max_length, context)


def may_be_longer(pair: Pair, limit: int, *, grounded: bool) -> bool:
    """Whether a row can have more than ``limit`` tokens; most data need no tokenizer, which takes seconds to start.

    A byte is one token at most, and a fact repeats at most the texts of the row.
    """
    texts = sum(len(message.content.encode()) for message in pair.messages)
    return (1 + grounded) * texts + _TEMPLATE_TOKENS > limit


def rows_longer_than(
    limit: int, pairs: Iterable[Pair], tokenizer: TokenCounter, *, grounded: bool
) -> dict[int, int]:
    """Row → tokens with what its prompt has at least, of the rows that have more than ``limit``."""
    lengths = {
        pair.row: tokenizer.count_tokens(with_own_fact(pair) if grounded else pair)
        for pair in pairs
        if may_be_longer(pair, limit, grounded=grounded)
    }
    return {row: tokens for row, tokens in lengths.items() if tokens > limit}
