"""Answers that are copied from the data: the best fact, word for word, or nothing.

Copying needs the data and a sentence embedder, and no trained model, so that a study answers seconds after it has its
data. The rule for declining is fitted on the validation questions as that of a trained assistant
(:mod:`assistant_builder.retrieval.decline`), on what the search says alone. A study without an index is indexed in
memory, with the embedder of its settings; a study with one is answered from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from assistant_builder.data import Message, Pair, load_split, prepare_dataset
from assistant_builder.errors import StudyError
from assistant_builder.i18n import Text, m
from assistant_builder.models.download import needs_embedder_download
from assistant_builder.retrieval.answering import (
    CONVERSATIONS,
    Judged,
    Look,
    looks,
    settle,
)
from assistant_builder.retrieval.build import served_index_folder
from assistant_builder.retrieval.decline import DeclineRule, found_alone, judgement
from assistant_builder.retrieval.index import FILES, RECORD, Index
from assistant_builder.retrieval.retriever import Chooser, Found, Retriever
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study

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
        retriever: Finds facts.
        rule: Declines.
        conversations: Whether the answers of the data follow other turns.
    """

    retriever: Retriever
    rule: DeclineRule
    conversations: bool = False

    @classmethod
    def load(
        cls, study: Study, report: Callable[[Text, float], None] = lambda phase, done: None
    ) -> Copier:
        """Prepare the answers of a study; loads the sentence embedder, so that only worker processes call it.

        Args:
            study: A study with its data file; no step needs to be done.
            report: Called with what is being done and the fraction that is done.

        Raises:
            DataError: The data cannot be used, or have too many answers to look up.
            ModelError: The sentence embedder is not available.
            StudyError: The data file is missing, or the index is damaged.
        """
        report(m("Reading the data"), 0.1)
        training, validation, test = _splits(study)
        report(m("Loading the sentence embedder"), 0.2)
        if has_index(study):
            measured = Retriever.load(study, None, served=False)
        else:
            from assistant_builder.models.embedding import Embedder

            # another one is downloaded by a run alone, which asks before
            other = study.config.retrieval.embedder
            embedder = Embedder.of("" if needs_embedder_download(other) else other)

            def embedded(done: int, total: int) -> None:
                report(m("Indexing the questions"), 0.5 + 0.4 * done / max(total, 1))

            index = Index.build(training, embedder, embedded)
            measured = Retriever(study, index, embedder, Chooser(study.config.retrieval.facts))
        report(m("Fitting the rule for declining"), 0.9)
        asked = ValidationQuestions(training, validation, measured)
        rule = copy_rule(asked, study.config.retrieval.false_declines)
        turns = sum(pair.turns for pair in training)
        conversations = (turns - len(training)) / max(turns, 1) >= CONVERSATIONS
        final = study.config.retrieval.final_index
        # a question of the data is answered with its own answer, though validation and test held it out
        served = measured.with_wordings([*validation, *test]) if final else measured
        return cls(served, rule, conversations)

    def answer(self, messages: Sequence[Message]) -> Copied:
        """Answer the last message of a conversation, which is a question."""
        first, second = looks(messages, conversations=self.conversations)
        attempts: list[Found] = []

        def look(each: Look) -> Judged:
            attempts.extend(self.retriever.find([each]))
            evidence = found_alone(attempts[-1].evidence)
            return Judged(self.rule.confidence(evidence), attempts[-1].best)

        again = partial(look, second) if second is not None else None
        place = settle(self.rule, messages[-1].content, look(first), again)
        found = attempts[place or 0]
        judged = judgement(
            "copy",
            found_alone(found.evidence),
            self.rule,
            nearest=found.nearest,
            declined=place is None,
            suggestions=found.suggestions,
            tied=found.tied,
        )
        if place is None or found.best is None:
            return Copied(self.rule.sentence, (), True, judged)
        return Copied(found.best.answer, tuple(found.source_records()), False, judged)


def copy_rule(asked: ValidationQuestions, target: float) -> DeclineRule:
    """The rule for copying the answer of the best fact: by what was found alone.

    Args:
        asked: The validation questions.
        target: Largest share of answerable questions to be declined.
    """
    found, follow_ups = (
        [found_alone(each.evidence) for each in group] for group in (asked.found, asked.follow_ups)
    )
    return asked.fit(found, target, follow_ups)


def has_index(study: Study) -> bool:
    """Whether the index of a study is complete; that of a study whose data were never run is made in memory."""
    done = study.step("data-embed").state == "succeeded"
    return done and all((study.retrieval_folder / name).is_file() for name in FILES)


def copy_stamp(study: Study) -> str:
    """A text that changes with the data that a study copies from."""
    files = [study.source, study.folder / "study.yaml"]
    if has_index(study):
        files = [served_index_folder(study) / RECORD]
    elif study.step("data").state == "succeeded":
        files.append(study.folder / "data" / "split.json")
    stamps = (path.stat() for path in files if path is not None and path.is_file())
    return " ".join(f"{found.st_mtime_ns}.{found.st_size}" for found in stamps)


def _splits(study: Study) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
    # training, validation and test pairs: those of the data step, else as it will draw them
    if study.step("data").state == "succeeded":
        data = study.folder / "data"
        return tuple(load_split(data, name) for name in ("train", "validation", "heldout"))  # type: ignore[return-value]
    if study.source is None:
        raise StudyError(
            m("the {study}'s data file is missing"),
            where=str(study.folder / "data"),
            remedy=m("Start a new {study} from the file"),
        )
    split = prepare_dataset(study.source, study.config.data).split
    return split.train, split.validation, split.heldout
