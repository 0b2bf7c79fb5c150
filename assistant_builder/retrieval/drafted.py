"""Which drafted questions of documents are kept: those that find their own statements, and no other as near."""

from __future__ import annotations

from collections.abc import Sequence

from assistant_builder.data.words import content_words
from assistant_builder.documents.questions import DocumentQuestion
from assistant_builder.retrieval.index import Query
from assistant_builder.retrieval.passages import Passages
from assistant_builder.retrieval.retriever import TIE

_DEPTH = 6  # hits among which the statements of an answer are looked for


def kept_drafts(
    passages: Passages, drafts: Sequence[DocumentQuestion], facts: int
) -> list[DocumentQuestion]:
    """The drafts whose statements are found.

    The statement of a question must be the first that is found, with more than a tie before the next one. Those of a
    question about two statements must be among the ``facts`` that a prompt holds.
    """
    ranked = _ranked(passages, [each.question for each in drafts])
    return [
        draft
        for draft, hits in zip(drafts, ranked, strict=True)
        if (
            {*draft.keys} <= {key for key, _ in hits[:facts]}
            if len(draft.keys) > 1
            else hits
            and hits[0][0] == draft.keys[0]
            and (len(hits) < 2 or hits[0][1] - hits[1][1] > TIE)
        )
    ]


def supporting_keys(passages: Passages, question: str, answer: str) -> tuple[str, ...]:
    """Keys of the statements that an answer rests on: the nearest that has its words, else the nearest two that have.

    Empty if no statements near the question have them.
    """
    words = set(content_words(answer))
    (hits,) = _ranked(passages, [question])
    texts = {each.key: set(content_words(each.searched)) for each in passages.statements}
    keys = [key for key, _ in hits]
    for key in keys:
        if words <= texts[key]:
            return (key,)
    for place, first in enumerate(keys):
        for second in keys[place + 1 :]:
            if words <= texts[first] | texts[second]:
                return first, second
    return ()


def _ranked(passages: Passages, questions: Sequence[str]) -> list[list[tuple[str, float]]]:
    """For each question, key and score of the statements that are found, the best first."""
    if not questions:
        return []
    retriever = passages.retriever
    vectors = retriever.embedder.encode(list(questions))
    queries = [Query(question) for question in questions]
    out = [passages.waiting] * len(queries)
    ranked = retriever.index.search(queries, vectors, _DEPTH, exclude=out)
    return [[(passages.statement(hit.fact).key, hit.score) for hit in hits] for hits in ranked]
