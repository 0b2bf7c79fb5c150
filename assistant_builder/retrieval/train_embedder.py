"""Training the sentence embedder of a study on its training questions: wordings of one fact become similar.

A batch has one question of each of several facts. The question must find its own fact, that is another wording with its
answer, among those of the batch: the cross-entropy of scaled cosines with in-batch negatives (Henderson et al. 2017,
arXiv 1705.00652), as in the MultipleNegativesRankingLoss of sentence-transformers. The second term is the same for the
answer alone. A fact with one wording is asked as people type instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from assistant_builder.data.respell import as_typed
from assistant_builder.models.bundled import BUNDLED_EMBEDDERS
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.embedder_choice import chosen_embedder
from assistant_builder.retrieval.index import BEGINNING, Fact
from assistant_builder.retrieval.ranking import TRAINED
from assistant_builder.study import Study

BATCH = 32  # facts of a step
_RATES = {"scale": 20.0, "learning_rate": 5e-5, "answer_loss": 0.5}
HYPERPARAMETERS = {"answer_weight": TRAINED.answer, **_RATES}
"""Arguments of :meth:`assistant_builder.models.embedding.Embedder.train`."""
PASSES, LEAST_STEPS, MOST_STEPS = 8, 40, 100
"""Passes over the questions, and the least and most steps of a training."""
NAME = "{name}, trained on the questions of the study"

Triple = tuple[str, str, str]  # A question, another wording of it, and the answer


def train_embedder(
    study: Study, model: str, facts: Sequence[Fact], progress: Callable[[int, int], None]
) -> Embedder:
    """Train a copy of an embedder, and write it to the study's folder; see :func:`batches` for when not.

    Args:
        study: The study.
        model: The embedder, as :meth:`Embedder.of` takes it.
        facts: Its training facts; those that should be declined are not used.
        progress: Called with finished steps and their number; an exception cancels the training.
    """
    embedder = Embedder.of(model)
    trained = list(batches(facts, study.config.train.seed))
    if not trained:
        return embedder
    embedder.train(trained, progress, **HYPERPARAMETERS)
    embedder.save(study.embedder_folder)
    return _trained(study, model)


def embedder_of_study(study: Study) -> Embedder:
    """The embedder of a study's index: the trained one, else that of the settings or of the language of the data."""
    model = chosen_embedder(study)
    return _trained(study, model) if study.embedder_folder.is_dir() else Embedder.of(model)


def _trained(study: Study, model: str) -> Embedder:
    name = BUNDLED_EMBEDDERS.get(model, model)
    return Embedder(study.embedder_folder, name=NAME.format(name=name))


def batches(facts: Sequence[Fact], seed: int) -> Iterator[list[Triple]]:
    """The batches of a training; answers within one differ. None if there are fewer than two answers.

    Wordings of a fact are questions of one cluster, or of one group, with the same answer: two things may share one.
    If most facts have one wording, there are no batches: its spellings do not show how people ask otherwise, and the
    embedder would only lose what it knows about other wordings.
    """
    wordings: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        if fact.answerable:
            key = fact.answer_key, fact.cluster or fact.group or ""
            wordings.setdefault(key, []).append(fact)
    asked_otherwise = sum(len(each) > 1 for each in wordings.values())
    if len({answer for answer, _ in wordings}) < 2 or asked_otherwise < len(wordings) / 2:
        return
    rng, keys = random.Random(f"embedder/{seed}"), list(wordings)
    rows = sum(map(len, wordings.values()))
    steps = min(max(PASSES * rows // min(BATCH, len(keys)), LEAST_STEPS), MOST_STEPS)
    while steps > 0:
        rng.shuffle(keys)
        rest = keys
        while rest and steps > 0:
            part: dict[str, tuple[str, str]] = {}
            for key in rest:
                if len(part) < BATCH:
                    part.setdefault(key[0], key)
            if len(part) > 1:
                steps -= 1
                yield [_triple(wordings[key], rng) for key in part.values()]
            rest = [key for key in rest if part.get(key[0]) != key]


def _triple(wordings: Sequence[Fact], rng: random.Random) -> Triple:
    first, second = rng.sample(wordings, 2) if len(wordings) > 1 else (wordings[0], wordings[0])
    asked = first.query.text if first is not second else as_typed(first.query.text, rng)
    return asked, second.query.text, second.answer[:BEGINNING]
