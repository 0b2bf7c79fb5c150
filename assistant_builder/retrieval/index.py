"""The index over the training pairs: exact search by sentence embeddings and BM25, kept in plain files.

Every assistant turn of a pair is one fact, searched by embeddings of its question and its answer, and by BM25 of its
question (:mod:`assistant_builder.retrieval.ranking`). docs/retrieval.md has the measurements behind these choices. The
module needs numpy and bm25s, and torch only in the embedder that :meth:`Index.build` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from assistant_builder.atomic_io import (
    file_hash,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
)
from assistant_builder.data import Pair
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import DataError, StudyError
from assistant_builder.i18n import Text, m
from assistant_builder.retrieval.lexical import GRAM, K1, METHOD, B, Bm25, Numbers, terms
from assistant_builder.retrieval.ranking import (
    DECLINING,
    DEPTH,
    SHARPNESS,
    TRAINED,
    WORDINGS,
    Ranked,
    Weights,
    fact_scores,
    log_total,
    numbered,
    rank,
)
from assistant_builder.retrieval.spelling import Spelling

MAX_FACTS = 100_000  # facts up to which the exact search is fast enough
FACTS, VECTORS, RECORD = "facts.jsonl", "vectors.safetensors", "index.json"
FILES = (FACTS, VECTORS, RECORD)
_VERSION = 3
_TENSOR = "facts"
GRID = 2048
"""Components of vectors are multiples of 1/GRID. Products of unit vectors are then multiples of 1/GRID² below 4, which
float32 holds exactly: cosines do not depend on the order of the sums, so that equal questions tie in every batch."""
_REPEATS = 3  # weight of a question relative to its history
BEGINNING = 500  # characters of an answer that are embedded
_BLOCK = 8_000_000  # cosines that are computed at a time


class TextEncoder(Protocol):
    """What the index needs of :class:`assistant_builder.models.embedding.Embedder`."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def sha256(self) -> str:
        """Hash of the model's files."""

    def encode(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Unit vectors of n texts, float32 [n, d]."""

    def is_word(self, text: str) -> bool:
        """Whether a word in lower case is one of its vocabulary."""


class Progress(Protocol):
    """Called with the texts that are embedded and their total; an exception cancels the work."""

    def __call__(self, done: int, total: int, /) -> None:
        """Report progress."""


@dataclass(frozen=True)
class Query:
    """A question, with the earlier user turns of its conversation, joined by a line break."""

    question: str
    history: str = ""

    @property
    def text(self) -> str:
        """The text that is embedded: the question, with history three times, then the history, the latest turn first.

        Repetition weighs the question above the history, which matters when the subject has changed. The question comes
        first, because an embedder truncates long texts at the end.
        """
        if not self.history:
            return self.question
        return "\n".join([*[self.question] * _REPEATS, *reversed(self.history.split("\n"))])

    @property
    def key(self) -> str:
        """The normalized question and history, by which queries are equal."""
        return casefold_normalize(self.text)


PASSAGE = "passage:"
"""Before the key of a statement in the cluster of its fact, and of the pairs that rest on it."""
CORRECTIONS = -1_000_000_000
"""Corrections have rows below this, statements of documents negative ones above it."""


@dataclass(frozen=True)
class Fact:
    """One assistant turn of a training pair, or a statement of a document."""

    row: int  # row of the pair in the data file; of the n-th statement -n
    turn: int  # 0-based assistant turn
    question: str  # the user's turn
    answer: str
    history: str  # earlier user turns, joined by a line break; "" for the first
    group: str | None
    cluster: str | None
    answerable: bool

    @property
    def is_correction(self) -> bool:
        """Whether it is a corrected answer, which is in no file of data."""
        return self.row < CORRECTIONS

    @property
    def query(self) -> Query:
        """The fact's question with its history."""
        return Query(self.question, self.history)

    @property
    def is_passage(self) -> bool:
        """Whether it is a statement of a document."""
        return CORRECTIONS <= self.row < 0

    @property
    def clusters(self) -> frozenset[str]:
        """Its cluster; of a pair that rests on statements those of the statements."""
        if self.cluster is None:
            return frozenset()
        return frozenset(
            self.cluster.split() if self.cluster.startswith(PASSAGE) else (self.cluster,)
        )

    @property
    def answer_key(self) -> str:
        """The normalized answer, by which answers are equal."""
        return casefold_normalize(self.answer)

    @property
    def subject(self) -> str | None:
        """What sets the fact apart from others of the same answer: its group, unless it has a cluster."""
        return self.group if self.cluster is None and self.answerable else None


class _EmbedderRecord(TypedDict):
    name: str
    sha256: str | None


class IndexRecord(TypedDict):
    """``index.json``."""

    facts: int
    dimensions: int
    embedder: _EmbedderRecord
    spelling: NotRequired[bool]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Hit:
    """A fact that was found."""

    fact: Fact
    similarity: float  # cosine of the embeddings of the question and the fact
    bm25: float
    score: float  # of its answer: cosine and BM25 of its best wordings
    # logarithm of the answer's share among all answers that are none to decline
    log_share: float = 0.0


def facts_of(pair: Pair) -> list[Fact]:
    """The facts of a pair, one for each assistant turn, in order."""
    facts: list[Fact] = []
    asked: list[str] = []
    for message in pair.messages:
        if message.role == "user":
            asked.append(message.content)
        elif message.role == "assistant":
            facts.append(
                Fact(
                    row=pair.row,
                    turn=len(facts),
                    question=asked[-1] if asked else "",
                    answer=message.content,
                    history="\n".join(asked[:-1]),
                    group=pair.group,
                    cluster=pair.cluster,
                    answerable=pair.answerable,
                )
            )
    return facts


def fact_vectors(
    facts: Sequence[Fact],
    embedder: TextEncoder,
    progress: Progress | None = None,
    *,
    weights: Weights = TRAINED,
) -> NDArray[np.float32]:
    """Unit vectors of n facts, float32 [n, d]: the question's embedding and, by its weight, the answer's.

    New wordings share the subject with the answer where they share few words with the question.
    """
    questions = [fact.query.text for fact in facts]
    answers = list(dict.fromkeys(fact.answer[:BEGINNING] for fact in facts))
    texts = list(dict.fromkeys([*questions, *answers]))
    rows = {text: row for row, text in enumerate(texts)}
    known = embedder.encode(texts, progress=progress)
    answered = known[[rows[fact.answer[:BEGINNING]] for fact in facts]]
    declining = min(weights.answer, DECLINING)
    shares = [weights.answer if fact.answerable else declining for fact in facts]
    vectors = known[[rows[text] for text in questions]]
    vectors = vectors + np.array(shares, np.float32)[:, None] * answered
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(vectors / norms, np.float32)


def on_grid(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of any shape, rounded to multiples of 1/:data:`GRID`, which float16 holds exactly."""
    return (np.round(np.asarray(vectors, dtype=np.float32) * GRID) / GRID).astype(np.float32)


class Index:
    """The facts of a study, searched by meaning and by words.

    ``vectors`` are those of :func:`fact_vectors`, float32 [n, d], rounded as in the file, so that a
    loaded index returns what the built one did. ``embedder`` has the name and the SHA-256 of the model. ``positions``
    are those of the facts of a row. ``spells``: whether misspelt words of a question are corrected; indexes of earlier
    versions were measured without. ``weights`` are those of the vectors.
    """

    def __init__(
        self,
        facts: Sequence[Fact],
        vectors: NDArray[np.float32],
        embedder: Mapping[str, str],
        *,
        spells: bool = True,
        weights: Weights = TRAINED,
    ) -> None:
        self.facts = list(facts)
        self.vectors = on_grid(vectors)
        self.embedder, self.spells, self.weights = dict(embedder), spells, weights
        self._answers = numbered(fact.answer_key for fact in self.facts)
        subjects = (fact.subject for fact in self.facts)
        self._subjects = numbered(zip(self._answers.tolist(), subjects, strict=True))
        self._answerable = np.array([fact.answerable for fact in self.facts], dtype=bool)
        self._asked: dict[str, list[int]] = {}
        self.positions: dict[int, list[int]] = {}
        for position, fact in enumerate(self.facts):
            self._asked.setdefault(fact.query.key, []).append(position)
            self.positions.setdefault(fact.row, []).append(position)
        self._bm25 = Bm25([terms(fact.query.text) for fact in self.facts])
        self._numbers = Numbers([fact.question for fact in self.facts])

    def of_facts(self, facts: Sequence[Fact], vectors: NDArray[np.float32]) -> Index:
        """An index of other facts and their vectors, otherwise like this one."""
        return Index(facts, vectors, self.embedder, spells=self.spells, weights=self.weights)

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(f"{fact.question} {fact.answer}" for fact in self.facts)

    def corrected(self, query: Query, is_word: Callable[[str], bool]) -> Query:
        """A query with the words of the facts in place of misspelt ones, see :class:`Spelling`."""
        if not self.spells:
            return query
        return replace(query, question=self._spelling.corrected(query.question, is_word))

    @classmethod
    def build(
        cls,
        pairs: Sequence[Pair],
        embedder: TextEncoder,
        progress: Progress | None = None,
        weights: Weights = TRAINED,
    ) -> Index:
        """Index the pairs in file order.

        Raises:
            DataError: There is no pair, or there are more than :data:`MAX_FACTS` facts.
        """
        facts = [fact for pair in pairs for fact in facts_of(pair)]
        if not facts:
            raise DataError(m("there is no training pair to look answers up in"))
        if len(facts) > MAX_FACTS:
            raise DataError(
                m(
                    "{facts:,} answers are too many to look up; the limit is {max_facts:,}",
                    facts=len(facts),
                    max_facts=MAX_FACTS,
                ),
                remedy=m("Lower {data.max_train}"),
            )
        model = {"name": embedder.name, "sha256": embedder.sha256}
        return cls(
            facts, fact_vectors(facts, embedder, progress, weights=weights), model, weights=weights
        )

    def save(self, folder: Path) -> list[Path]:
        """Write the files of the index, which depend on nothing but its content; the record is written last."""
        from safetensors.numpy import save

        write_jsonl(folder / FACTS, map(asdict, self.facts))
        write_bytes(folder / VECTORS, save({_TENSOR: self.vectors.astype(np.float16)}))
        write_json(
            folder / RECORD,
            {
                "version": _VERSION,
                "facts": len(self.facts),
                "dimensions": int(self.vectors.shape[1]),
                "embedder": self.embedder,
                **({"spelling": True} if self.spells else {}),
                **_method(self.weights),
                "sha256": {name: file_hash(folder / name) for name in (FACTS, VECTORS)},
            },
        )
        return [folder / name for name in FILES]

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read an index.

        Raises:
            StudyError: A file is missing or damaged, or was written by another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for name in FILES:
            if not (folder / name).is_file():
                raise _damaged(folder / name, m("is missing"))
        record, weights = read_json(folder / RECORD), TRAINED
        with suppress(KeyError, TypeError):
            given = record["ranking"]
            weights = Weights(
                record["answer_weight"], given["word_weight"], given.get("number_weight", 0.0)
            )
        version = {"version": _VERSION, **_method(weights)}
        if {key: record.get(key) for key in version} != version:
            raise _damaged(folder / RECORD, m("was written by another version or is damaged"))
        record = read_json(folder / RECORD, IndexRecord)
        try:
            for name in (FACTS, VECTORS):
                if file_hash(folder / name) != record["sha256"][name]:
                    raise _damaged(
                        folder / name, m("is not the file that {record} names", record=RECORD)
                    )
            facts = read_jsonl(folder / FACTS, Fact)
            vectors = load_file(folder / VECTORS)[_TENSOR]
            spells = record.get("spelling", False)
            index = cls(facts, vectors, record["embedder"], spells=spells, weights=weights)
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(folder, m("is damaged")) from error
        shape, count = index.vectors.shape, len(facts)
        if shape != (count, record.get("dimensions")) or count != record.get("facts"):
            raise _damaged(
                folder,
                m("has {facts} facts and vectors of the shape {shape}", facts=count, shape=shape),
            )
        return index

    def search(
        self,
        queries: Sequence[Query],
        vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: Sequence[Collection[int]] | None = None,
    ) -> list[list[Hit]]:
        """Find the k best facts for each query, the best first; of equal answers the one of the nearest question.

        Args:
            queries: n questions.
            vectors: Unit embeddings of their ``text``, [n, d].
            k: Number of hits; fewer if there are too few facts.
            exclude: For each query, rows of the data file whose facts are not returned and not ranked.

        Returns:
            The hits of each query; equal scores in the order of similarity, then in file order.
        """
        vectors = on_grid(vectors)
        shape, excluded = (len(queries), self.vectors.shape[1]), exclude or [()] * len(queries)
        if vectors.shape != shape or len(excluded) != len(queries):
            raise ValueError(f"{len(queries)} queries with vectors of the shape {vectors.shape}")
        hits: list[list[Hit]] = []
        block = max(1, _BLOCK // len(self.facts))
        for start in range(0, len(queries), block):
            cosines = vectors[start : start + block] @ self.vectors.T
            for number, row in enumerate(cosines, start):
                out = excluded[number]
                hits.append(self._search_one(queries[number], row, k, out))
        return hits

    def nearest_to_decline(
        self,
        queries: Sequence[Query],
        vectors: NDArray[np.float32],
        exclude: Sequence[Collection[int]] | None = None,
    ) -> list[float]:
        """The score of the nearest question that should be declined, for each query; 0 without such a question.

        The arguments are those of :meth:`search`.
        """
        positions, vectors = np.flatnonzero(~self._answerable), on_grid(vectors)
        rows = [self.facts[position].row for position in positions.tolist()]
        nearest = []
        for number, query in enumerate(queries if rows else ()):
            cosines = self.vectors[positions] @ vectors[number]
            scores = fact_scores(
                cosines, self._words(query)[positions], len(self.facts), self.weights.words
            )
            out = exclude[number] if exclude else ()
            pairs = zip(scores.tolist(), rows, strict=True)
            nearest.append(max((score for score, row in pairs if row not in out), default=0.0))
        return nearest or [0.0] * len(queries)

    def _words(self, query: Query) -> NDArray[np.float32]:
        scores = self._bm25.scores(terms(query.question))
        if query.history:
            scores += self._bm25.scores(terms(query.history)) * np.float32(1 / _REPEATS)
        return scores

    def _search_one(
        self,
        query: Query,
        cosines: NDArray[np.float32],
        k: int,
        exclude: Collection[int],
    ) -> list[Hit]:
        bm25 = self._words(query)
        out = [position for row in exclude for position in self.positions.get(row, ())]
        cosines[out], bm25[out] = -np.inf, 0.0
        unlike = np.float32(self.weights.numbers) * self._numbers.differ(query.question)
        ranked_by: NDArray[np.float32] = (cosines - unlike).astype(np.float32)
        depth, asked = max(DEPTH, k), self._asked.get(query.key, ())
        answers, subjects = self._answers, self._subjects
        while True:
            ranked = rank(
                ranked_by,
                bm25,
                answers,
                depth,
                words=self.weights.words,
                subjects=subjects,
                asked=asked,
            )
            chosen = self._choose(ranked, k)
            if len(chosen) == k or depth >= len(self.facts):
                break
            depth *= 8
        total = log_total(ranked, self._answers, self._answerable)

        def hit(position: int, score: float) -> Hit:
            share = SHARPNESS * score - total if total > -np.inf else 0.0
            scores = float(cosines[position]), float(bm25[position]), score, share
            return Hit(self.facts[position], *scores)

        return [hit(*each) for each in chosen]

    def _choose(self, ranked: Ranked, k: int) -> list[tuple[int, float]]:
        chosen: dict[int, tuple[int, float]] = {}
        for position, score in zip(ranked.positions.tolist(), ranked.scores.tolist(), strict=True):
            if len(chosen) == k:
                break
            chosen.setdefault(int(self._answers[position]), (position, score))
        return list(chosen.values())


def _method(weights: Weights) -> dict[str, Any]:
    return {
        "bm25": {"variant": METHOD, "k1": K1, "b": B, "characters": GRAM},
        "question_weight": _REPEATS,
        "answer_weight": weights.answer,
        "ranking": {
            "word_weight": weights.words,
            **({"number_weight": weights.numbers} if weights.numbers else {}),
            "wordings": WORDINGS,
            "sharpness": SHARPNESS,
        },
    }


def _damaged(path: Path, what: Text) -> StudyError:
    return StudyError(
        m("the index of the training pairs {what}", what=what),
        where=str(path),
        remedy=m("Restore it from a copy, or {redo} to recreate it"),
    )
