"""Answers that are copied from the data: the best fact, word for word, or nothing.

Copying needs the data and a sentence embedder, and no trained model, so that a study answers seconds after it has its
data. The rule for declining is fitted on the validation questions as that of a trained assistant
(:mod:`assistant_builder.retrieval.decline`), on what the search says alone. A study without an index is indexed in
memory, with the embedder of its settings; a study with one is answered from it.

The statements of a study's documents (:mod:`assistant_builder.retrieval.passages`) are looked up beside its pairs, and
the nearer of the two answers. A study may have documents alone. What rests on a statement that changed is not served
until somebody has decided on the change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Message, Pair
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.documents.questions import trained_file
from assistant_builder.documents.store import Documents, no_documents
from assistant_builder.i18n import Text, m, written
from assistant_builder.retrieval.answering import (
    CONVERSATIONS,
    Judged,
    Look,
    looks,
    settle,
)
from assistant_builder.retrieval.build import served_index_folder
from assistant_builder.retrieval.corrections import corrected_answer
from assistant_builder.retrieval.decline import DeclineRule, found_alone, judgement
from assistant_builder.retrieval.embedder_choice import available_embedder, chosen_embedder
from assistant_builder.retrieval.index import FILES, RECORD, Index, Progress, TextEncoder
from assistant_builder.retrieval.passages import Passages
from assistant_builder.retrieval.prior import Priors
from assistant_builder.retrieval.promise import kept
from assistant_builder.retrieval.ranking import PLAIN
from assistant_builder.retrieval.retriever import Chooser, Found, Retriever
from assistant_builder.retrieval.staleness import UNDECIDED, stale_rows
from assistant_builder.retrieval.study_pairs import splits
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study

if TYPE_CHECKING:
    from assistant_builder.models.embedding import Embedder

_log = logging.getLogger(__name__)
COPY = "copy"
"""Name of the assistant that copies, next to those of the arms."""


@dataclass(frozen=True)
class Copied:
    """A copied answer.

    Attributes:
        text: The answer of the best fact, or what is said where the data have no answer.
        sources: Row, question, answer and similarity of the facts, the best first; empty if declined.
        declined: Whether the question was declined.
        judged: See :func:`assistant_builder.retrieval.decline.judgement`.
    """

    text: str
    sources: tuple[dict[str, Any], ...]
    declined: bool
    judged: dict[str, Any]


@dataclass(frozen=True)
class Copier:
    """Answers questions of one study with its facts.

    Attributes:
        retriever: Finds facts of the pairs; ``None`` for a study without pairs.
        rule: Declines.
        conversations: Whether the answers of the data follow other turns.
        passages: The statements of the documents; ``None`` for a study without documents.
    """

    retriever: Retriever | None
    rule: DeclineRule
    conversations: bool = False
    passages: Passages | None = None

    @classmethod
    def load(
        cls, study: Study, report: Callable[[Text, float], None] = lambda phase, done: None
    ) -> Copier:
        """Prepare the answers of a study; loads the sentence embedder, so that only worker processes call it.

        Args:
            study: A study with its data file or documents; no step needs to be done.
            report: Called with what is being done and the fraction that is done.

        Raises:
            DataError: The data cannot be used, or have too many answers to look up.
            ModelError: The sentence embedder is not available.
            StudyError: The data file is missing, or the index is damaged.
        """
        documents = Documents(study)
        if documents and (study.source is None or trained_file(study).is_file()):
            report(m("Loading the sentence embedder"), 0.2)
            passages = study_passages(study, _reporter(report, 0.3))
            if has_index(study):
                training, validation, _ = splits(study)
                measured = Retriever.load(study, None, served=False)
                asked = ValidationQuestions(training, validation, measured)
                rule = kept(study, COPY, copy_rule(asked, study.config.retrieval.false_declines))
                passages = replace(passages, rule=rule)
            return cls(None, passages.rule, passages=passages)
        report(m("Reading the data"), 0.1)
        training, validation, test = splits(study)
        report(m("Loading the sentence embedder"), 0.2)
        if has_index(study):
            measured = Retriever.load(study, None, served=False)
            embedder: TextEncoder = measured.embedder
        else:
            embedder = _embedder(study, [*training, *validation, *test])
            index = Index.build(training, embedder, _reporter(report, 0.5), PLAIN)
            measured = Retriever(study, index, embedder, Chooser(study.config.retrieval.facts))
        report(m("Fitting the rule for declining"), 0.9)
        asked = ValidationQuestions(training, validation, measured)
        rule = kept(study, COPY, copy_rule(asked, study.config.retrieval.false_declines))
        turns = sum(pair.turns for pair in training)
        conversations = (turns - len(training)) / max(turns, 1) >= CONVERSATIONS
        final = study.config.retrieval.final_index
        # a question of the data is answered with its own answer, though validation and test held it out
        served = measured.with_wordings([*validation, *test]) if final else measured
        served = served.served
        if not documents:
            return cls(served, rule, conversations)
        served = served.without(*stale_rows(documents, served.index))
        beside = Passages.load(study, embedder, rule.sentence, _reporter(report, 0.9))
        return cls(served, rule, conversations, beside)

    def answer(self, messages: Sequence[Message], *, corrected: bool = True) -> Copied:
        """Answer the last message of a conversation, which is a question; ``corrected``: with corrections."""
        attempts: list[_Attempt] = []
        if self.retriever is not None:
            retriever = self.retriever if corrected else self.retriever.measured
            attempts.append(self._attempt(messages, retriever, self.rule))
        if self.passages is not None:
            retriever, rule = self.passages.retriever, self.passages.rule
            retriever = retriever if corrected else retriever.measured
            attempts.append(self._attempt(messages, retriever, rule))
        if (given := attempts[0].found.corrected) is not None:
            return Copied(given.answer, *corrected_answer(given))
        answered = [each for each in attempts if not each.declined] or attempts
        best = max(
            answered, key=lambda each: each.found.evidence.similarity
        )  # of equal ones the pair
        passages = self.passages if best is not attempts[0] or self.retriever is None else None
        found, fact, declined, why = best.found, best.found.best, best.declined, None
        if declined and passages is not None:
            why = _no_statement(found, best.rule)
        elif found.withheld:
            declined, why = True, UNDECIDED
        judged = judgement(
            "copy",
            found_alone(found.evidence),
            best.rule,
            nearest=found.nearest,
            declined=declined or fact is None,
            # a statement is no question that could be offered, and a withheld answer offers none
            suggestions=found.suggestions if why is None and passages is None else (),
            tied=found.tied and passages is None,
            why=why,
        )
        if declined or fact is None:
            return Copied(self.rule.sentence, (), True, judged)
        return Copied(fact.answer, tuple(found.source_records()), False, judged)

    def _attempt(
        self,
        messages: Sequence[Message],
        retriever: Retriever,
        rule: DeclineRule,
    ) -> _Attempt:
        """Look the question up, alone and with the question before where it may refer to that."""
        first, second = looks(messages, conversations=self.conversations)
        attempts: list[Found] = []

        def look(each: Look) -> Judged:
            attempts.extend(retriever.find([each]))
            evidence = found_alone(attempts[-1].evidence)
            return Judged(rule.confidence(evidence), attempts[-1].best)

        again = partial(look, second) if second is not None else None
        judged = look(first)
        if attempts[0].corrected is not None:
            return _Attempt(attempts[0], rule, False)
        earlier = second.query.history if second is not None else ""
        place = settle(rule, messages[-1].content, judged, again, earlier)
        return _Attempt(attempts[place or 0], rule, place is None)


@dataclass(frozen=True)
class _Attempt:
    """What was found among pairs or statements, and whether their rule declines."""

    found: Found
    rule: DeclineRule
    declined: bool


def study_passages(study: Study, progress: Progress | None = None) -> Passages:
    """The statements of a study's documents; loads the sentence embedder.

    Raises:
        ConfigError: The study has no documents.
        ModelError: The sentence embedder is not available.
    """
    passages = Passages.load(study, _embedder(study), DECLINE_SENTENCE, progress)
    if passages is None:
        raise no_documents(study.name)
    return passages


def _no_statement(found: Found, rule: DeclineRule) -> tuple[Text, Text]:
    """Why documents do not answer a question, and what to add."""
    reason = m(
        "No statement of the documents is near enough: the confidence is {confidence:.2f}, and {threshold:.2f} is "
        "needed.",
        confidence=rule.confidence(found_alone(found.evidence)),
        threshold=rule.threshold,
    )
    return reason, m("Add a document that says it, or a row with the question and its answer.")


def _embedder(study: Study, pairs: Sequence[Pair] | None = None) -> Embedder:
    """The embedder of a study; one of the hub is downloaded by a run alone, which asks before."""
    from assistant_builder.models.embedding import Embedder

    chosen = chosen_embedder(study, pairs, downloaded=True)
    available, warning = available_embedder(study.config.retrieval.embedder, chosen)
    if warning:
        _log.warning("%s", written(warning)[0])
    return Embedder.of(available)


def _reporter(report: Callable[[Text, float], None], begin: float) -> Progress:
    def embedded(done: int, total: int) -> None:
        report(m("Indexing the questions"), begin + 0.4 * done / max(total, 1))

    return embedded


def copy_rule(
    asked: ValidationQuestions, target: float, priors: Priors | None = None
) -> DeclineRule:
    """The rule for copying the answer of the best fact: by what was found alone.

    Args:
        asked: The validation questions.
        target: Largest share of answerable questions to be declined.
        priors: As of :meth:`ValidationQuestions.fit`.
    """
    found, follow_ups = (
        [found_alone(each.evidence) for each in group] for group in (asked.found, asked.follow_ups)
    )
    return asked.fit(found, target, follow_ups, priors)


def has_index(study: Study) -> bool:
    """Whether the index of a study is complete; that of a study whose data were never run is made in memory."""
    done = study.step("data-embed").state == "succeeded"
    return done and all((study.retrieval_folder / name).is_file() for name in FILES)


def copy_stamp(study: Study) -> str:
    """A text that changes with the data that a study copies from."""
    documents = Documents(study)
    files = [study.source, study.folder / "study.yaml"]
    if has_index(study):
        files = [served_index_folder(study) / RECORD]
    elif study.step("data").state == "succeeded":
        files.append(study.folder / "data" / "split.json")
    stamps = (path.stat() for path in files if path is not None and path.is_file())
    own = " ".join(f"{found.st_mtime_ns}.{found.st_size}" for found in stamps)
    return f"{own} {documents.stamp}" if documents else own
