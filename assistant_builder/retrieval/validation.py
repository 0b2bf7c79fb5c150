"""The validation questions by which rules for declining are fitted, and what was found for each.

Every answerable validation question is asked twice: as it is, and with its fact withheld from the index, when it should
be declined. The training questions that should be declined are asked as well, each looked up without its own row; no
adapter was trained on them. Questions to decline are also looked up with an unrelated question before them, as the
second look of a follow-up does. Held-out questions are not used.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from assistant_builder.data import Pair
from assistant_builder.models.bundled import BUNDLED_EMBEDDERS, ENGLISH
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    TO_DECLINE,
    WITHHELD,
    DeclineRule,
    Evidence,
    decline_sentence,
    far_from_everything,
    fit,
    found_alone,
)
from assistant_builder.retrieval.grounding import supporting
from assistant_builder.retrieval.index import Query, facts_of
from assistant_builder.retrieval.prior import PRIORS, Priors
from assistant_builder.retrieval.retriever import Retriever
from assistant_builder.retrieval.train_embedder import NAME

T = TypeVar("T")
MEASURED_WITH = NAME.format(name=BUNDLED_EMBEDDERS[ENGLISH])
"""The embedder of the priors: other ones have other similarities."""
MOST_QUESTIONS, MOST_FOLLOW_UPS = 300, 100
"""Questions of a kind that are used at most; of more, every n-th."""


class ValidationQuestions:
    """The questions of training and validation by which rules are fitted.

    Attributes:
        pairs: The pair of each question.
        kinds: Its kind. A question is answerable if a fact in the index states its answer and is found first; with
            another fact it would be answered wrong, as with its fact withheld. One whose answer is not in the data
            should be declined.
        found: What was found for it.
        follow_ups: What was found for questions to decline with an unrelated question before them.
        respelled: What was found for respelled questions, which show how the assistant answers and not when it should.
    """

    def __init__(
        self, training: Sequence[Pair], pairs: Sequence[Pair], retriever: Retriever
    ) -> None:
        respelled = [pair for pair in pairs if pair.respelled is not None and pair.answerable]
        self.respelled = retriever.find([_look(pair) for pair in _some(respelled)])
        taught = [pair for pair in training if not pair.answerable]
        self._retriever = retriever
        self._training = _some([pair for pair in training if pair.answerable])
        self.sentence = decline_sentence(training)
        self.taught = sorted({pair.answer for pair in taught})
        # people ask in words that are farther away than respelled ones
        pairs = tuple(pair for pair in pairs if pair.respelled is None)
        rows = supporting(retriever.index, [facts_of(pair)[-1] for pair in pairs])
        with_rows = list(zip(pairs, rows, strict=True))
        known = _some([(pair, rows) for pair, rows in with_rows if pair.answerable and rows])
        unknown = _some([pair for pair, rows in with_rows if not (pair.answerable and rows)])
        questions: list[tuple[str, Pair, Collection[int]]] = [
            *((ANSWERABLE, pair, ()) for pair, _ in known),
            *((TO_DECLINE, pair, ()) for pair in unknown),
            *((TO_DECLINE, pair, {pair.row}) for pair in _some(taught)),
            *((WITHHELD, pair, rows) for pair, rows in known),
        ]
        self.kinds, self.pairs = [each[0] for each in questions], [each[1] for each in questions]
        self.found = retriever.find(
            [_look(pair) for pair in self.pairs], exclude=[each[2] for each in questions]
        )
        for place, (_, own) in enumerate(known):
            best = self.found[place].best
            if best is None or best.row not in own:
                self.kinds[place] = WITHHELD
        to_decline = _some([each for each in questions if each[0] != ANSWERABLE], MOST_FOLLOW_UPS)
        rng = random.Random("follow-ups")
        self.follow_ups = (
            retriever.find(
                [self._follow_up(pair, rng) for _, pair, _ in to_decline],
                exclude=[each[2] for each in to_decline],
            )
            if self._training
            else []
        )

    def _follow_up(self, pair: Pair, rng: random.Random) -> Look:
        unrelated = [other for other in self._training if other.answer != pair.answer] or [pair]
        own, earlier = (facts_of(each)[-1].question for each in (pair, rng.choice(unrelated)))
        return replace(_look(pair), query=Query(own, earlier))

    def fit(
        self,
        evidence: Sequence[Evidence],
        target: float,
        follow_ups: Sequence[Evidence] = (),
        priors: Priors | None = None,
    ) -> DeclineRule:
        """The rule, from the evidence of each question in the order of ``found``, and of ``follow_ups``.

        ``priors`` are by default those of the embedder, if it is the one that they were measured with.
        """
        if priors is None and self._retriever.embedder.name == MEASURED_WITH:
            priors = PRIORS
        facts = [
            pair.cluster or (pair.answer if pair.answerable else pair.messages[-2].content)
            for pair in self.pairs
        ]
        found = fit(
            evidence,
            self.kinds,
            facts,
            target=target,
            sentence=self.sentence,
            follow_ups=follow_ups,
            priors=priors,
        )
        if found is not None:
            return found
        rows = supporting(self._retriever.index, [facts_of(pair)[-1] for pair in self._training])
        alone = self._retriever.find([_look(pair) for pair in self._training], exclude=rows)
        rng, later = random.Random("follow-ups"), _some(range(len(rows)), MOST_FOLLOW_UPS)
        second = self._retriever.find(
            [self._follow_up(self._training[place], rng) for place in later],
            exclude=[rows[place] for place in later],
        )
        return far_from_everything(
            [found_alone(each.evidence) for each in alone],
            target=target,
            sentence=self.sentence,
            follow_ups=[found_alone(each.evidence) for each in second],
        )


def _look(pair: Pair) -> Look:
    return Look.of(pair.messages[:-1])


def _some(questions: Sequence[T], most: int = MOST_QUESTIONS) -> Sequence[T]:
    return questions[:: -(-len(questions) // most) or 1]
