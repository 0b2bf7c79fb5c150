"""Questions of the owner, which test what the file cannot.

No fact is held out of a file whose answers occur once, so it has nothing to test with: the owner types other wordings
of some facts. The test of many files has hardly a question to decline: the owner chooses questions that the file does
not answer. Both are in ``own_questions.json`` and never trained on. The answers of the assistants are in
``own_answers.json``.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Pair, load_split
from assistant_builder.data.one_wording import LEAST_WORDINGS
from assistant_builder.data.prepare import row_numbers
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.wordings import (
    count_wordings,
    match_wordings,
    pairs_to_word,
    read_wordings,
)
from assistant_builder.data.words import bare_words, content_words
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Text, m, t
from assistant_builder.retrieval.build import lookup_stamp
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.decline import FILE as RULE
from assistant_builder.retrieval.index import RECORD, Index
from assistant_builder.retrieval.lexical import Bm25, terms
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnAnswer, OwnAnswers, OwnQuestion, OwnQuestions, Split

ASKED = 10
"""Facts for which other wordings are asked, and least questions to decline of a test that needs no further ones."""
NO_ANSWER = "-"
"""The answer of a question that the file does not answer."""
_MOST_COMPARED = 2000  # facts that are compared with all others; of more, every second, third, … is
_SUBJECTS = 5
_QUESTIONS, _ANSWERS = "own_questions.json", "own_answers.json"


def takes_own_questions(study: Study) -> bool:
    """Whether the data steps are done, and the file has too few other wordings or questions to decline for a test.

    Only an assistant that looks facts up can tell that nothing answers a question.
    """
    split = study.folder / "data" / "split.json"
    if not split.is_file() or study.step("data-embed").state != "succeeded":
        return False
    grounded = "grounded" in study.config.approaches
    return takes_wordings(study) or (
        grounded and _to_decline(split.parent, split.stat().st_mtime_ns) < ASKED
    )


def takes_wordings(study: Study) -> bool:
    """Whether most answers of a study whose data steps are done occur once, and the test has too few other wordings."""
    counted = count_wordings(read_json(study.folder / "data" / "split.json", Split))
    return counted is not None and counted.occurs_once and counted.test < LEAST_WORDINGS


@functools.lru_cache(maxsize=32)
def _to_decline(data: Path, changed: int) -> int:
    """The number of questions to decline in the test."""
    return sum(not pair.answerable for pair in load_split(data, "heldout"))


# What is asked


def facts_to_word(study: Study) -> list[Pair]:
    """The training pairs whose other wordings would decide most, the most confusable first.

    Two facts are confused the more easily, the nearer they are in the index: by the cosine of their vectors, or, where
    nothing is looked up, by the BM25 score of the one for the question of the other, as a share of the score that the
    other itself has. The file is divided in its order into :data:`ASKED` stretches of equal length. Of each stretch the
    fact is asked for that is nearest to any fact of the file with another answer, so that the questions are spread over
    the file. Facts that have other wordings, conversations and questions to decline are left out.
    """
    pairs = load_split(study.folder / "data", "train")
    asked = Counter(casefold_normalize(pair.compared_question) for pair in pairs)
    facts = [
        pair
        for pair in pairs_to_word(pairs)
        if pair.answerable
        and pair.turns == 1
        and pair.respelled is None
        and asked[casefold_normalize(pair.compared_question)] == 1
    ]
    if not facts:
        return []
    compared = list(range(0, len(facts), -(-len(facts) // _MOST_COMPARED)))
    nearness = _nearness(study, facts, compared)
    keys = np.unique([casefold_normalize(pair.answer) for pair in facts], return_inverse=True)[1]
    nearness[keys[compared][:, None] == keys[None, :]] = -np.inf
    nearest = nearness.max(axis=1)
    stretches = np.array_split(np.arange(len(compared)), min(ASKED, len(compared)))
    chosen = [stretch[nearest[stretch].argmax()] for stretch in stretches]
    chosen.sort(key=lambda place: (-nearest[place], place))
    return [facts[compared[place]] for place in chosen]


def _nearness(study: Study, facts: Sequence[Pair], compared: Sequence[int]) -> NDArray[np.floating]:
    """How near each of the compared facts is to every fact, [len(compared), len(facts)]."""
    if (study.retrieval_folder / RECORD).is_file():
        index = Index.load(study.retrieval_folder)
        if all(pair.row in index.positions for pair in facts):
            vectors = index.vectors[[index.positions[pair.row][0] for pair in facts]]
            return np.asarray(vectors[compared] @ vectors.T)
    words = [terms(pair.question) for pair in facts]
    scores = Bm25(words)
    found = np.stack([scores.scores(words[place]) for place in compared])
    return found / np.maximum(found.max(axis=1, keepdims=True), 1e-9)


_NEAR = (
    N_("What would it cost to insure the {subject}?"),
    N_("Can I buy the {subject} from you?"),
    N_("Did you have the {subject} ten years ago?"),
    N_("What did the {subject} cost in 1950?"),
    N_("Who will look after the {subject} next year?"),
)
_FAR = (
    N_("Write a poem about the sea."),
    N_("How do I change a tyre?"),
    N_("Who won the football World Cup in 2014?"),
    N_("What is the capital of Mongolia?"),
    N_("Which shares should I buy now?"),
)
_NOUN = re.compile(
    r"\b(?:the|an?|your|our|der|die|das|den|dem|eine?|einen|le|la|les|une?|el|los|las|una)"
    r"\s+(\w+\s+)?(\w{3,})(?=[?.!,;])",
    re.IGNORECASE,
)
"""An article with one or two words at the end of a part of a sentence."""
_NOT_FOR_SALE = set(
    bare_words(
        "age amount answer charge code cost date day deadline deposit difference discount fee hour limit maximum "
        "minimum month number order payment percentage price rate reason refund rule time total way week weekend "
        "year alter anzahl betrag frist gebühr grund kosten monat nummer pfand preis rabatt regel stunde tag "
        "uhrzeit unterschied woche wochenende zeit acompte caution coût date délai durée frais heure jour mois "
        "montant numéro prix raison règle remise semaine tarif temps cantidad coste descuento día diferencia fecha "
        "fianza hora importe mes motivo número plazo precio regla semana tarifa tiempo"
    )
)
"""Nouns of which the questions below would be nonsense."""


def suggested_questions(pairs: Iterable[Pair]) -> list[str]:
    """Questions that a file hardly answers: near ones, with the nouns that its questions have most, and far ones."""
    ends = [
        (first.strip(), word)
        for pair in pairs
        for first, word in _NOUN.findall(pair.question)
        if content_words(word)
        and not word.isdecimal()
        and _NOT_FOR_SALE.isdisjoint(
            each for bare in bare_words(word) for each in (bare, bare.removesuffix("s"))
        )
    ]
    sure = {word for first, word in ends if not first}  # as in "Who built the castle?"
    nouns = Counter(word for first, word in ends if first not in sure)
    subjects: dict[str, str] = {}
    for word, _ in nouns.most_common():
        subjects.setdefault(" ".join(bare_words(word)), word)
    near = [
        t(question, subject=subject)
        for question, subject in zip(_NEAR, [*subjects.values()][:_SUBJECTS], strict=False)
    ]
    return [*near, *map(t, _FAR)]


# The files


def add_questions_of_file(study: Study, path: Path) -> tuple[OwnQuestion, ...]:
    """Add the questions of a file, see :func:`assistant_builder.data.wordings.read_wordings`; returns all.

    The answer ``-`` says that the file of the study does not answer a question.

    Raises:
        DataError: The file cannot be read, or a question belongs to no training pair.
    """
    added = questions_of(study, read_wordings(path), where=str(path))
    return save_questions(study, [*read_questions(study), *added])


def questions_of(
    study: Study, cells: Sequence[tuple[str, str]], *, where: Text
) -> list[OwnQuestion]:
    """The questions of cells: each a question, and its answer, known question, row number or :data:`NO_ANSWER`.

    Raises:
        DataError: A question belongs to no training pair, or is one of them; ``where`` says what the cells are from.
    """
    _refuse_known(study, [question for question, _ in cells])
    pairs = {pair.row: pair for pair in load_split(study.folder / "data", "train")}
    numbers = row_numbers(study.folder / "data")
    wordings, unmatched = match_wordings(
        [*pairs.values()], (cell for cell in cells if cell[1] != NO_ANSWER), numbers
    )
    if unmatched:
        raise DataError(
            m("no row has the answer of {question!r}", question=unmatched[0]),
            where=where,
            remedy=m(
                "Copy the answer from the data file, or write {sign} if it has none", sign=NO_ANSWER
            ),
        )
    return [
        *(wording_of(pairs[each.row], each.question) for each in wordings),
        *(OwnQuestion(question) for question, answer in cells if answer == NO_ANSWER),
    ]


def questions_file(study: Study) -> Path:
    """``own_questions.json``."""
    return study.folder / _QUESTIONS


def answers_file(study: Study) -> Path:
    """``own_answers.json``."""
    return study.folder / _ANSWERS


def read_questions(study: Study) -> tuple[OwnQuestion, ...]:
    """The questions of the owner, wordings first."""
    path = questions_file(study)
    remedy = m("Delete it, and type your questions again")
    found: OwnQuestions = (
        read_json(path, OwnQuestions, remedy=remedy) if path.is_file() else OwnQuestions()
    )
    return found.questions


def save_questions(study: Study, questions: Iterable[OwnQuestion]) -> tuple[OwnQuestion, ...]:
    """Replace the questions of the owner; empty and repeated ones are left out.

    Raises:
        DataError: The file of the study has one of the questions, so that it would test nothing.
    """
    questions = [*questions]
    _refuse_known(study, [each.question for each in questions])
    kept: dict[str, OwnQuestion] = {}
    for each in questions:
        if key := casefold_normalize(each.question):
            kept.setdefault(key, each)
    saved = tuple(sorted(kept.values(), key=lambda each: each.row is None))
    write_json(questions_file(study), {"questions": [vars(each) for each in saved]})
    return saved


def _refuse_known(study: Study, questions: Iterable[str]) -> None:
    known = {
        casefold_normalize(pair.question)
        for split in ("train", "validation")
        for pair in load_split(study.folder / "data", split)
        if pair.respelled is None
    }
    for question in questions:
        if casefold_normalize(question) in known:
            raise DataError(
                m("your file has the question “{question}” already", question=question),
                where=m("{study} {name}", name=study.name),
                remedy=m(
                    "Ask in other words: a question that the assistant was trained on tests nothing"
                ),
            )


def keep_questions(study: Study, version: Study) -> None:
    """Give a study that is made from another one the questions of the owner, so that both are asked the same."""
    if questions_file(study).is_file():
        shutil.copyfile(questions_file(study), questions_file(version))


def wording_of(pair: Pair, question: str) -> OwnQuestion:
    """Another wording of a training pair."""
    return OwnQuestion(" ".join(question.split()), pair.row, pair.question, pair.answer)


def trained_arms(study: Study) -> list[str]:
    """The arms that can be asked: they are trained, and if facts are looked up, the rule for declining is fitted."""
    needed = ["summary.json", *([RULE] if study.config.grounded else [])]
    return [
        arm
        for arm in study.config.arms
        if all((study.arm_folder(arm) / name).is_file() for name in needed)
        and study.step(f"train-{study.arm_folder(arm).name}").state == "succeeded"
    ]


def assistants(study: Study) -> list[str]:
    """Whom the owner asks: the trained arms, and :data:`COPY`, which needs no training."""
    return [*trained_arms(study), COPY]


def _model(study: Study, arm: str) -> str:
    if arm == COPY:
        return f"{file_hash(study.folder / 'data' / 'split.json')} {lookup_stamp(study, [])}"
    return f"{study.arm_summary(arm)['adapter_sha256']} {lookup_stamp(study, [arm])}"


def _all_answers(study: Study) -> dict[str, OwnAnswers]:
    path = answers_file(study)
    remedy = m("Delete it: the questions are asked again")
    return read_json(path, dict[str, OwnAnswers], remedy=remedy) if path.is_file() else {}


def read_answers(study: Study, arm: str) -> dict[str, OwnAnswer]:
    """Question → answer of the present adapter of an arm, with the present index and rule."""
    found = _all_answers(study).get(study.arm_folder(arm).name)
    return found["answers"] if found and found["model"] == _model(study, arm) else {}


def save_answers(study: Study, question: str, answers: Mapping[str, OwnAnswer]) -> None:
    """Add the answers of arms to one question; those of earlier adapters are dropped."""
    stored = {**_all_answers(study)}
    for arm, answer in answers.items():
        stored[study.arm_folder(arm).name] = {
            "model": _model(study, arm),
            "answers": {**read_answers(study, arm), question: answer},
        }
    write_json(answers_file(study), stored)


def unasked(study: Study, *, copies: bool = False) -> list[tuple[str, list[str]]]:
    """Each question that was not asked yet, with the assistants that have no answer; ``copies``: :data:`COPY` alone."""
    questions, arms = read_questions(study), [COPY] if copies else assistants(study)
    answered = {arm: read_answers(study, arm) for arm in arms} if questions else {}
    missing = (
        (each.question, [arm for arm in arms if each.question not in answered[arm]])
        for each in questions
    )
    return [(question, arms) for question, arms in missing if arms]
