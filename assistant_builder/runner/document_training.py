"""Training on questions about documents: the data file of a study that has documents and no pairs of its own.

The test set is of people's questions, and of accepted drafts of sections that training does not see. A section is what
is below one heading. A draft that nobody saw is trained on at most, and one that people asked in nearly the same words
is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json, write_json, write_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data.similarity import NearDuplicateIndex
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.data.units import hash_order
from assistant_builder.documents.changes import Change
from assistant_builder.documents.questions import (
    PEOPLE,
    DocumentQuestion,
    Questions,
    trained_file,
)
from assistant_builder.documents.store import Documents
from assistant_builder.documents.types import Statement
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.retrieval.passages import cluster_of
from assistant_builder.study import Study

LEAST_TRAINING, LEAST_TEST = 40, 10
"""Questions of training and test from which a study of documents is trained."""
RECORD = "questions.json"
Section = tuple[str, str]


class QuestionCounts(TypedDict):
    """``data/questions.json``: where the questions of a study of documents are from.

    Attributes:
        people: Test questions that people asked.
        seen: Those of them about sections that training sees.
        accepted: Test questions that are accepted drafts.
        sections: Sections of those, which training does not see.
        training: Questions of training and validation.
        unseen: Those of them that nobody saw.
        left_out: Drafts that are not used, because of the test.
    """

    people: int
    seen: int
    accepted: int
    sections: int
    training: int
    unseen: int
    left_out: int


def question_counts(study: Study) -> QuestionCounts | None:
    """Where the questions are from; ``None`` for a study that is not trained on questions about documents."""
    path = study.folder / "data" / RECORD
    if not trained_file(study).is_file() or not path.is_file():
        return None
    counts: QuestionCounts = read_json(path, QuestionCounts)
    return counts


def reads_documents(study: Study) -> bool:
    """Whether the study's training is, or can only be, on questions about its documents."""
    return bool(Documents(study)) and (study.source is None or trained_file(study).is_file())


def prepare_training(study: Study) -> QuestionCounts:
    """Write the data file of a study of documents from its questions; it stays as it is where nothing changed.

    Raises:
        StudyError: There are too few questions to train or to test with.
    """
    documents = Documents(study)
    waiting = {each.new.key for each in documents.undecided if each.new is not None}
    statements = [each for each in documents.statements if each.key not in waiting]
    questions = current_questions(Questions(study).all(), statements, documents.changes)
    rows, counts = training_rows(questions, statements, study.config.data)
    test = counts["people"] + counts["accepted"]
    if counts["training"] < LEAST_TRAINING or test < LEAST_TEST:
        raise StudyError(
            m(
                "the {study} has {training} questions to train on and {test} to test with, and needs {least} and "
                "{least_test}",
                training=counts["training"],
                test=test,
                least=LEAST_TRAINING,
                least_test=LEAST_TEST,
            ),
            where=m("{study} {name}", name=study.name),
            remedy=m(
                "It answers from its documents already. Draft questions with 'assistant-builder data questions {name} "
                "--draft', and accept them or add people's",
                name=study.name,
            ),
        )
    folder = study.folder / "data"
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "statements.jsonl", (each.to_record() for each in statements))
    write_json(folder / RECORD, counts)
    write_jsonl(folder / "source.jsonl", rows)
    return counts


def can_train(study: Study) -> bool:
    """Whether a study of documents has enough questions to be trained."""
    documents = Documents(study)
    statements = documents.statements
    questions = current_questions(Questions(study).all(), statements, documents.changes)
    _, counts = training_rows(questions, statements, study.config.data)
    test = counts["people"] + counts["accepted"]
    return counts["training"] >= LEAST_TRAINING and test >= LEAST_TEST


def current_questions(
    questions: Iterable[DocumentQuestion],
    statements: Sequence[Statement],
    changes: Sequence[Change],
) -> list[DocumentQuestion]:
    """The questions that are used now.

    One whose statement changed rests on the new one if somebody decided that it is still right, and is left out else.
    """
    kept = {
        change.old.key: change.new.key
        for change in changes
        if change.decision == "keep" and change.new is not None
    }
    known = {each.key for each in statements}
    result = []
    for each in questions:
        keys = tuple(kept.get(key, key) for key in each.keys)
        if each.state in ("accepted", "training") and known.issuperset(keys):
            result.append(replace(each, keys=keys))
    return result


def training_rows(
    questions: Sequence[DocumentQuestion], statements: Sequence[Statement], config: DataConfig
) -> tuple[list[dict[str, Any]], QuestionCounts]:
    """The rows of the data file, each with its split, and the counts."""
    sections: Mapping[str, Section] = {
        each.key: (each.document, each.heading) for each in statements
    }

    def about(question: DocumentQuestion) -> set[Section]:
        return {sections[key] for key in question.keys}

    people = [each for each in questions if each.origin == PEOPLE]
    drafts = _not_asked([each for each in questions if each.origin != PEOPLE], people, config)
    accepted = [each for each in drafts if each.state == "accepted"]
    held = _drawn(accepted, about, config.heldout_fraction, config.seed, "heldout")
    test = [each for each in accepted if about(each) <= held]
    rest = [each for each in drafts if not about(each) & held]
    checked = _drawn(rest, about, config.validation_fraction, config.seed, "validation")
    validation = [each for each in rest if about(each) <= checked]
    training = [each for each in rest if not about(each) & checked]
    taught = {section for each in training for section in about(each)}
    splits = (("train", training), ("validation", validation), ("heldout", [*people, *test]))
    rows = [_row(each, split, about(each)) for split, group in splits for each in group]
    used = [*training, *validation]
    return rows, QuestionCounts(
        people=len(people),
        seen=sum(bool(each.keys) and about(each) <= taught for each in people),
        accepted=len(test),
        sections=len({section for each in test for section in about(each)}),
        training=len(used),
        unseen=sum(each.state == "training" for each in used),
        left_out=sum(each.origin != PEOPLE for each in questions) - len(test) - len(used),
    )


def _not_asked(
    drafts: Sequence[DocumentQuestion], people: Sequence[DocumentQuestion], config: DataConfig
) -> list[DocumentQuestion]:
    """The drafts that nobody asked in nearly the same words."""
    texts = [each.question for each in (*people, *drafts)]
    near = NearDuplicateIndex(texts, config.near_duplicate_threshold)
    for place in range(len(people)):
        near.add(place)
    known = {each.key for each in people}
    return [
        each
        for place, each in enumerate(drafts, start=len(people))
        if each.key not in known and near.nearest(place) is None
    ]


def _drawn(
    questions: Sequence[DocumentQuestion], about: Any, fraction: float, seed: int, purpose: str
) -> set[Section]:
    """Sections, drawn until those of their questions that are about nothing else are ``fraction`` of all."""
    names = {" › ".join(section): section for each in questions for section in about(each)}
    drawn: set[Section] = set()
    for name in hash_order(names, seed, purpose):
        if sum(about(each) <= drawn for each in questions) >= fraction * len(questions):
            break
        drawn.add(names[name])
    return drawn


def _row(question: DocumentQuestion, split: str, about: set[Section]) -> dict[str, Any]:
    # statements of a section are facts of one kind, which count as one unit where a verdict is about new facts
    row = {
        "question": question.question,
        "answer": question.answer or DECLINE_SENTENCE,
        "cluster": cluster_of(question.keys) or None,
        "family": " › ".join(min(about)) if about else None,
        "split": split,
        "answerable": question.kind != "unanswerable",
    }
    return {key: value for key, value in row.items() if value is not None}
