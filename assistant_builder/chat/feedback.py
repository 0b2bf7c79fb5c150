"""Feedback from the chat: blind votes (``votes.jsonl``) and corrected answers (``corrections.jsonl``).

A study that is retrained on corrections lists them in ``made_from.json``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assistant_builder.arms import LORA, QLORA, TWINS
from assistant_builder.atomic_io import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.config import parse_config
from assistant_builder.data import SPLITS, Message, Pair, SplitName, load_split
from assistant_builder.data.edit import AddedPair, append_pairs, escape_formula, write_rows
from assistant_builder.data.leaks import find_leaks
from assistant_builder.data.reading_process import load_rows
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import AssistantBuilderError, DataError, StudyError
from assistant_builder.i18n import Message as Shown
from assistant_builder.i18n import m, render, t
from assistant_builder.retrieval.corrections import Correction, read_corrections
from assistant_builder.retrieval.own_questions import keep_questions, read_questions
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Vote:
    """One vote, as a line of ``votes.jsonl``."""

    time: str  # ISO 8601 time in UTC
    question: str
    # messages that both assistants received; the last one is the question
    conversation: list[dict[str, str]]
    answers: dict[str, str]  # arm → answer
    sides: dict[str, str]  # ``a`` and ``b`` → arm on that side
    vote: Choice  # ``a`` or ``b`` (that side's answer is better), ``tie`` or ``both bad``
    sampling: dict[str, Any]
    model: dict[str, str]  # the base model, and the SHA-256 of each arm's adapter

    @property
    def winner(self) -> str | None:
        """The preferred arm."""
        return self.sides[self.vote] if self.vote in ("a", "b") else None


@dataclass(frozen=True)
class Tally:
    """Counts of a study's votes."""

    candidate: int = 0  # votes for QLoRA
    baseline: int = 0  # votes for 16-bit LoRA
    ties: int = 0
    both_bad: int = 0
    outdated: int = 0  # votes on adapters that have been retrained since; not counted
    # repeated votes on the same answers, after the sides were revealed; not counted
    repeated: int = 0
    p_value: float = 1.0  # of the votes that prefer one assistant, see vote_p_value

    @property
    def counted(self) -> int:
        """Number of counted votes, including ties."""
        return self.candidate + self.baseline + self.ties + self.both_bad


def votes_file(study: Study) -> Path:
    """``votes.jsonl``, written only by :func:`record_vote`."""
    return study.folder / "votes.jsonl"


def model_of(study: Study) -> dict[str, str]:
    """The current base model and the twins' adapters, as recorded in a vote; raises StudyError before training."""
    adapters: dict[str, str] = {}
    for arm in TWINS:
        path = study.arm_folder(arm) / "summary.json"
        if not path.is_file():
            raise StudyError(
                m("the {arm} assistant is not trained", arm=arm),
                where=str(path),
                remedy=m("Train the {study} first"),
            )
        adapters[arm] = str(read_json(path, ArmSummary)["adapter_sha256"])
    return {"base": study.config.model.base, **adapters}


def record_vote(study: Study, turn: Turn, conversation: Iterable[Message], vote: Choice) -> Vote:
    """Append the vote on a blind turn, with the messages that both assistants received.

    Raises:
        StudyError: The turn cannot be voted on, or the vote prefers one of two identical answers.
    """
    if not turn.votable or vote not in CHOICES:
        raise StudyError(
            m("there is nothing to vote on"),
            where="chat",
            remedy=m("Ask in blind mode and wait for both answers"),
        )
    if turn.identical and vote in ("a", "b"):
        raise StudyError(
            m("both answers are identical"), where="chat", remedy=m("Vote for the same or both bad")
        )
    cast = Vote(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        question=turn.question,
        conversation=[message.to_record() for message in conversation],
        answers={arm: turn.answers[arm].text for arm in TWINS},
        sides=dict(zip("ab", turn.sides, strict=True)),
        vote=vote,
        sampling=asdict(turn.sampling),
        model=model_of(study),
    )
    append_jsonl(votes_file(study), asdict(cast))
    return cast


def read_votes(study: Study) -> list[Vote]:
    """Every vote, oldest first; raises StudyError if the file is damaged."""
    votes: list[Vote] = read_jsonl(votes_file(study), Vote, remedy=t("Fix or remove that line"))
    return votes


def counted_votes(votes: Iterable[Vote], model: Mapping[str, str]) -> list[Vote]:
    """The votes on the current adapters, only the first one for each pair of answers.

    The sides are revealed after the first vote, so later votes on the same answers are not blind. ``votes`` are ordered
    by time; ``model`` is the result of :func:`model_of`.
    """
    first: dict[str, Vote] = {}
    for vote in votes:
        if vote.model == model:
            first.setdefault(json.dumps([vote.conversation, vote.answers], sort_keys=True), vote)
    return list(first.values())


def tally(study: Study) -> Tally:
    """Count a study's votes and test whether they prefer one assistant."""
    votes = read_votes(study)
    if not votes or not study.config.compares:
        return Tally()
    model = model_of(study)
    counted = counted_votes(votes, model)
    outdated = sum(vote.model != model for vote in votes)
    wins = Counter(vote.winner for vote in counted)
    choices = Counter(vote.vote for vote in counted)
    return Tally(
        wins[QLORA.name],
        wins[LORA.name],
        choices["tie"],
        choices["both bad"],
        outdated,
        len(votes) - outdated - len(counted),
        vote_p_value(wins[QLORA.name], wins[LORA.name]),
    )


def vote_p_value(wins: int, losses: int) -> float:
    """Anytime-valid p-value of the hypothesis that neither assistant is preferred; 1 without decided votes.

    It may be read after each vote: voting until it pleases gains nothing, because the inverse of an e-value exceeds
    1/α at any time with probability at most α (Ville's inequality; Grünwald et al. 2024, JRSS B 86, 1091–1128).
    """
    return min(1.0, math.exp(-log_evidence(wins, losses, 0.5)))


def log_evidence(wins: int, losses: int, share: float) -> float:
    """Natural logarithm of the e-value against a share of wins between 0 and 1, with all other shares equally likely.

    It is the likelihood of the votes averaged over all shares, divided by their likelihood under ``share``.
    """
    mixed = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(wins + losses + 2)
    return mixed - wins * math.log(share) - losses * math.log1p(-share)


def tally_sentence(found: Tally) -> str:
    """:func:`tally_message` in the current language."""
    return render(tally_message(found))


def tally_message(found: Tally) -> Shown:
    """A sentence with the counts, their interpretation and the p-value."""
    if not found.counted:
        return m("No votes yet.")
    counts = [
        Shown("{arm} {count}", {"arm": Shown(arm.plain), "count": count})
        for arm, count in ((QLORA, found.candidate), (LORA, found.baseline))
    ]
    if found.ties:
        counts.append(m("{number} the same", number=found.ties))
    if found.both_bad:
        counts.append(m("{number} both bad", number=found.both_bad))
    decided = found.candidate + found.baseline
    if not decided:
        shown = m("no vote prefers one assistant yet")
    elif found.p_value > SIGNIFICANT:
        shown = m("no preference shown, p = {p_value:.2f}", p_value=found.p_value)
    else:
        winner = QLORA if found.candidate > found.baseline else LORA
        text = "p < {value:.3f}" if found.p_value < 0.001 else "p = {value:.3f}"
        shown = m(
            "{assistant} is preferred, {p_value}",
            assistant=Shown(winner.plain),
            p_value=Shown(text, {"value": max(found.p_value, 0.001)}),
        )
    return Shown("{counts}: {shown}.", {"counts": counts, "shown": shown})


@dataclass(frozen=True)
class RetrainingPlan:
    """How a new study uses the corrections."""

    trained: tuple[Correction, ...]
    # corrections that are not used for training, since their question is in the held-out set; the test stays as it is,
    # because without the questions that it got wrong the served version would look better than an equal one
    left_out: tuple[Correction, ...] = ()
    # rows of the training and validation data whose answer is replaced by a correction
    replaced: tuple[int, ...] = ()


def add_correction(
    study: Study,
    question: str,
    answer: str,
    *,
    wrong: str = "",
    arm: str = "",
    asked: str = "",
    cluster: str | None = None,
    answerable: bool = True,
) -> Correction:
    """Append a correction; it replaces an earlier correction of the same question.

    ``cluster`` and ``answerable`` are those of the pair that is trained; an answer with which the data decline is none.

    Raises:
        DataError: Question or answer is empty, or the answer is the assistant's own.
    """
    question, answer = question.strip(), answer.strip()
    if not (question and answer):
        what = m("the question and the better answer are empty")
        if question or answer:
            what = m("the better answer is empty") if question else m("the question is empty")
        raise DataError(
            what, where="correction", remedy=m("Enter a question and the correct answer")
        )
    answerable = answerable and not _declines(study, answer)
    if answerable and answer == wrong.strip():
        raise DataError(
            m("the better answer is identical to the assistant's answer"),
            where="correction",
            remedy=m("Enter the correct answer"),
        )
    existing, normalized = read_corrections(study), casefold_normalize(question)
    others = [other for other in existing if casefold_normalize(other.question) != normalized]
    added = Correction(
        datetime.now(UTC).isoformat(timespec="microseconds"),
        question,
        answer,
        wrong.strip(),
        arm,
        asked.strip() or question,
        cluster,
        answerable,
    )
    if len(others) == len(existing):
        append_jsonl(study.corrections_file, asdict(added))
    else:
        write_jsonl(study.corrections_file, map(asdict, (*others, added)))
    return added


def _declines(study: Study, answer: str) -> bool:
    try:  # there is none before the data step, and the Data tab reports a damaged one
        training = load_split(study.folder / "data", "train")
    except (AssistantBuilderError, OSError):
        return False
    answers = {casefold_normalize(pair.answer) for pair in training if not pair.answerable}
    return casefold_normalize(answer) in answers


def correction_rows(corrections: Iterable[Correction]) -> bytes:
    """The corrections as CSV, to be added to a spreadsheet of questions and answers."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("question", "answer"))
    for each in corrections:
        if each.answerable:
            answer = escape_formula(each.answer).replace("\n'- ", "\n- ")  # lists stay as they are
            writer.writerow((escape_formula(each.question), answer))
    return text.getvalue().encode("utf-8-sig")


def remove_correction(study: Study, time: str) -> None:
    """Delete the correction with this ``time``."""
    kept = [found for found in read_corrections(study) if found.time != time]
    write_jsonl(study.corrections_file, map(asdict, kept))


def heldout_matches(study: Study, questions: Sequence[str]) -> dict[int, list[int]]:
    """Find test questions: of the held-out set or typed by the owner, by the rule that finds leaks when data is split.

    Returns:
        Index of a question → rows of its exact or near duplicates; 0 for a question that the file does not answer.
    """
    if not questions or not study.split_file("heldout").is_file():
        return {}
    pairs = load_split(study.folder / "data", "heldout")
    own = [
        Pair(each.row or 0, (Message("user", each.question), Message("assistant", each.answer)))
        for each in read_questions(study)
    ]
    heldout = [*(pair for pair in pairs if pair.respelled is None), *own]
    threshold = study.config.data.near_duplicate_threshold
    matches: dict[int, list[int]] = {}
    for index, question in enumerate(questions):
        pair = Pair(0, (Message("user", question), Message("assistant", "")))
        rows = [leak.heldout_row for leak in find_leaks(heldout, [pair], [], threshold)]
        if rows:
            matches[index] = rows
    return matches


def plan_retraining(study: Study, corrections: Sequence[Correction]) -> RetrainingPlan:
    """Decide which corrections are trained: those of held-out questions are not, so that no held-out answer leaks.

    Raises:
        DataError: No correction is left for training.
    """
    leaking = heldout_matches(study, [each.question for each in corrections])
    trained = [each for index, each in enumerate(corrections) if index not in leaking]
    left_out = [each for index, each in enumerate(corrections) if index in leaking]
    if not trained:
        what, remedy = m("there is no correction yet"), m("Correct an answer first")
        if left_out:
            what = m("no correction can be used for training: all of them answer test questions")
            remedy = m("Correct answers to questions that are not in the test")
        raise DataError(what, where=m("{study} {name}", name=study.name), remedy=remedy)
    answered = {casefold_normalize(each.question) for each in trained}
    replaced = [
        pair.row
        for split in SPLITS
        if split != "heldout"
        for pair in load_split(study.folder / "data", split)
        if pair.turns == 1 and casefold_normalize(pair.question) in answered
    ]
    return RetrainingPlan(tuple(trained), tuple(left_out), tuple(replaced))


def create_retraining_study(study: Study, plan: RetrainingPlan, name: str) -> Study:
    """Create a study with the same settings and split, and with the corrections in its training data.

    ``name`` is a study name, or a title, from which the name is made.

    Raises:
        StudyError: A study of that name exists, or the data file of the corrected study is missing.
    """
    source, config = study.source, study.config
    if source is None:
        raise StudyError(
            m("the data file of the {study} is missing"),
            where=str(study.folder / "data"),
            remedy=m("Start a new {study} from the file"),
        )
    removed = {*plan.replaced}
    splits: dict[int, SplitName] = {
        pair.row: split
        for split in SPLITS
        for pair in load_split(study.folder / "data", split)
        if pair.row not in removed and pair.respelled is None
    }
    with tempfile.TemporaryDirectory(prefix="assistant-builder-") as scratch:
        kept, corrected = Path(scratch) / "kept.jsonl", Path(scratch) / "corrected.jsonl"
        table, roles = load_rows(source, config.data.columns)
        write_rows([row for row in table.rows if row.row in splits], kept)
        # explicit, since the role of a column may have been inferred from rows that are removed
        columns = config.data.columns | {role: name for role, name in roles.columns.items() if name}
        added = [
            AddedPair(each.question, each.answer, each.cluster, each.answerable)
            for each in plan.trained
        ]
        mapping = append_pairs(kept, added, corrected, columns, splits=splits)
        tree = (config.named(name) if name.strip() else config).model_dump(mode="json")
        tree["data"] |= {
            "source": corrected.name,
            "columns": mapping,
            "max_train": None,
            "max_heldout": None,  # the split is already sampled
            "remove_leaks": "always",  # the run finds and removes leaks by paraphrases
        }
        created = Study.create(parse_config(tree, where="settings"), corrected)
        origin = {"study": study.name, "corrections": [asdict(each) for each in plan.trained]}
        write_json(created.folder / "made_from.json", origin)
        keep_questions(study, created)
        created.record_template_date(like=study)
        return created
