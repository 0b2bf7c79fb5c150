"""Feedback from the chat: blind votes (``votes.jsonl``) and corrected answers (``corrections.jsonl``)."""

from __future__ import annotations

import json
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
from assistant_builder.data.edit import append_pairs, write_rows
from assistant_builder.data.load import load_rows
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.split import find_leaks
from assistant_builder.errors import DataError, StudyError
from assistant_builder.study import Study

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Vote:
    """One vote, as a line of ``votes.jsonl``.

    Attributes:
        time: When, ISO 8601 in UTC.
        question: What was asked.
        conversation: What both assistants were sent, roles and texts; the question is its last turn.
        answers: Arm → its answer.
        sides: ``a`` and ``b`` → the arm that stood there.
        vote: ``a`` or ``b`` (that side's answer is better), ``tie`` or ``both bad``.
        sampling: How the answers were generated.
        model: The base model and, by arm, the SHA-256 of the adapter that answered.
    """

    time: str
    question: str
    conversation: list[dict[str, str]]
    answers: dict[str, str]
    sides: dict[str, str]
    vote: Choice
    sampling: dict[str, Any]
    model: dict[str, str]

    @property
    def winner(self) -> str | None:
        """The arm that was preferred."""
        return self.sides[self.vote] if self.vote in ("a", "b") else None


@dataclass(frozen=True)
class Tally:
    """What the votes add up to.

    Attributes:
        candidate: Votes for QLoRA.
        baseline: Votes for 16-bit LoRA.
        ties: Both as good.
        both_bad: Neither good.
        outdated: Votes on adapters that have been trained anew since; not counted.
        repeated: Later votes on the same two answers, given when it was known who is who; not counted.
        p_value: Two-sided sign test over the votes that prefer one: how often luck alone would part them so unevenly.
    """

    candidate: int = 0
    baseline: int = 0
    ties: int = 0
    both_bad: int = 0
    outdated: int = 0
    repeated: int = 0
    p_value: float = 1.0

    @property
    def counted(self) -> int:
        """Votes that count, undecided ones among them."""
        return self.candidate + self.baseline + self.ties + self.both_bad


def votes_file(study: Study) -> Path:
    """``votes.jsonl``, which nothing but :func:`record_vote` writes."""
    return study.folder / "votes.jsonl"


def model_of(study: Study) -> dict[str, str]:
    """The base model and the twins' adapters that answer now, as a vote holds them.

    Raises:
        StudyError: An arm is not trained.
    """
    adapters: dict[str, str] = {}
    for arm in TWINS:
        path = study.arm_folder(arm) / "summary.json"
        if not path.is_file():
            raise StudyError(f"the {arm} assistant is not trained", where=str(path), remedy="Train the study first")
        adapters[arm] = str(read_json(path)["adapter_sha256"])
    return {"base": study.config.model.base, **adapters}


def record_vote(study: Study, turn: Turn, conversation: Iterable[Message], vote: Choice) -> Vote:
    """Append the vote on a blind turn.

    Args:
        study: The study.
        turn: The turn that was voted on.
        conversation: What both assistants were sent.
        vote: The vote.

    Raises:
        StudyError: The turn is not one that can be voted on, or prefers one of two answers that are the same.
    """
    if not turn.votable or vote not in CHOICES:
        raise StudyError("there is nothing to vote on", where="chat", remedy="Ask in blind mode and wait for both")
    if turn.alike and vote in ("a", "b"):
        raise StudyError("both answers are the same, word for word", where="chat", remedy="Vote a tie or both bad")
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
    """Every vote, oldest first.

    Raises:
        StudyError: The file is damaged.
    """
    try:
        return [Vote(**record) for record in read_jsonl(votes_file(study))]
    except TypeError as error:
        raise StudyError("a vote is of another version or damaged", where=str(votes_file(study)),
                         remedy="Mend or remove that line") from error


def counting(votes: Iterable[Vote], model: Mapping[str, str]) -> list[Vote]:
    """The votes that count: on the adapters at hand, and of several on the same two answers the first.

    After the first, the voter has seen who is who.

    Args:
        votes: All votes, oldest first.
        model: :func:`model_of` the study.
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
    kept = counting(votes, model)
    outdated = sum(vote.model != model for vote in votes)
    won = Counter(vote.winner for vote in kept)
    said = Counter(vote.vote for vote in kept)
    return Tally(
        won[QLORA.name], won[LORA.name], said["tie"], said["both bad"], outdated, len(votes) - outdated - len(kept),
        sign_p_value(won[QLORA.name], won[LORA.name]),
    )


def sign_p_value(wins: int, losses: int) -> float:
    """Exact two-sided sign test: a binomial test of the decided votes against one half; 1 without any."""
    from scipy.stats import binomtest  # here, for it takes a while to import

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def tally_sentence(found: Tally) -> str:
    """The tally in words: counts, what they show, and the p-value."""
    if not found.counted:
        return "No votes yet."
    ties = f", {found.ties} {'tie' if found.ties == 1 else 'ties'}" if found.ties else ""
    bad = f", {found.both_bad} both bad" if found.both_bad else ""
    decided = found.candidate + found.baseline
    if not decided:
        shown = "no vote prefers one yet"
    elif found.p_value > SIGNIFICANT:
        shown = f"no preference shown, p = {found.p_value:.2f}"
    else:
        p_value = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
        shown = f"{'QLoRA' if found.candidate > found.baseline else 'LoRA'} is preferred, {p_value}"
    return f"QLoRA {found.candidate}, LoRA {found.baseline}{ties}{bad}: {shown}."


FEWEST_HELDOUT = 2


@dataclass(frozen=True)
class Correction:
    """A question with a better answer, as a line of ``corrections.jsonl``.

    Attributes:
        time: When, ISO 8601 in UTC; it also tells one correction from another.
        question: As it will be trained on.
        answer: The better answer.
        wrong: What an assistant had said.
        arm: Which one.
    """

    time: str
    question: str
    answer: str
    wrong: str = ""
    arm: str = ""


@dataclass(frozen=True)
class RetrainingPlan:
    """What becomes of the corrections in a new study.

    Attributes:
        trained: Corrections that are trained on.
        left_out: Corrections left out of training, since their question stands in the held-out set.
        dropped: Rows of held-out questions that leave the test, since a correction gives them away.
        replaced: Rows of the old training and validation data whose answer a correction replaces.
    """

    trained: tuple[Correction, ...]
    left_out: tuple[Correction, ...] = ()
    dropped: tuple[int, ...] = ()
    replaced: tuple[int, ...] = ()


def corrections_file(study: Study) -> Path:
    """``corrections.jsonl``."""
    return study.folder / "corrections.jsonl"


def read_corrections(study: Study) -> list[Correction]:
    """Every correction, oldest first.

    Raises:
        StudyError: The file is damaged.
    """
    try:
        return [Correction(**record) for record in read_jsonl(corrections_file(study))]
    except TypeError as error:
        raise StudyError("a correction is of another version or damaged", where=str(corrections_file(study)),
                         remedy="Mend or remove that line") from error


def add_correction(study: Study, question: str, answer: str, *, wrong: str = "", arm: str = "") -> Correction:
    """Append a correction; one of the same question takes the place of the earlier one.

    Raises:
        DataError: Question or answer is empty, or the answer is the one that was to be corrected.
    """
    question, answer = question.strip(), answer.strip()
    empty = [name for name, text in (("question", question), ("better answer", answer)) if not text]
    if empty:
        raise DataError(f"the {' and the '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty",
                        where="correction", remedy="Write what the assistant should have said")
    if answer == wrong.strip():
        raise DataError("the better answer is the one that the assistant gave", where="correction",
                        remedy="Write what it should have said instead")
    asked = casefold_normalize(question)
    earlier = [found for found in read_corrections(study) if casefold_normalize(found.question) != asked]
    made = Correction(datetime.now(UTC).isoformat(timespec="microseconds"), question, answer, wrong.strip(), arm)
    if len(earlier) == len(read_corrections(study)):
        append_jsonl(corrections_file(study), asdict(made))
    else:
        write_jsonl(corrections_file(study), map(asdict, (*earlier, made)))
    return made


def remove_correction(study: Study, time: str) -> None:
    """Forget the correction made at ``time``."""
    kept = [found for found in read_corrections(study) if found.time != time]
    write_jsonl(corrections_file(study), map(asdict, kept))


def heldout_like(study: Study, questions: Sequence[str]) -> dict[int, list[int]]:
    """Which questions stand in the held-out set, by the rule that finds leaks when data is split.

    Args:
        study: A study with its data split.
        questions: What is asked about.

    Returns:
        Place of a question → rows of the held-out pairs that repeat it, exactly or nearly.
    """
    if not questions:
        return {}
    heldout = load_split(study.folder / "data", "heldout")
    threshold = study.config.data.near_duplicate_threshold
    found: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        asked = Pair(0, (Message("user", question), Message("assistant", "")))
        rows = [leak.heldout_row for leak in find_leaks(heldout, [asked], [], threshold)]
        if rows:
            found[place] = rows
    return found


def plan_retraining(study: Study, corrections: Sequence[Correction], *, drop_heldout: bool) -> RetrainingPlan:
    """Decide what is trained on and what leaves the test, so that no held-out question is given away.

    Args:
        study: The study that was corrected.
        corrections: Its corrections.
        drop_heldout: Whether a held-out question that was corrected leaves the test and is trained on; otherwise it
            stays and its correction is not trained on.

    Raises:
        DataError: Nothing is left to train on anew, or too few questions to test with.
    """
    leaking = heldout_like(study, [found.question for found in corrections])
    trained = [found for place, found in enumerate(corrections) if drop_heldout or place not in leaking]
    left_out = [found for place, found in enumerate(corrections) if not drop_heldout and place in leaking]
    dropped = sorted({row for rows in leaking.values() for row in rows}) if drop_heldout else []
    if not trained:
        raise DataError(
            "no correction is left to train on: all of them answer held-out questions" if left_out
            else "there is no correction yet", where=f"study {study.name}",
            remedy="Take their questions out of the test instead" if left_out else "Correct an answer first",
        )
    remaining = len(load_split(study.folder / "data", "heldout")) - len(dropped)
    if remaining < FEWEST_HELDOUT:
        raise DataError(
            f"only {remaining} held-out questions would be left to test with", where=f"study {study.name}",
            remedy="Keep the corrected questions in the test, and do not train on them",
        )
    answered = {casefold_normalize(found.question) for found in trained}
    replaced = [
        pair.row for split in SPLITS if split != "heldout" for pair in load_split(study.folder / "data", split)
        if pair.turns == 1 and casefold_normalize(pair.question) in answered
    ]
    return RetrainingPlan(tuple(trained), tuple(left_out), tuple(dropped), tuple(replaced))


def retrained_study(study: Study, plan: RetrainingPlan, name: str) -> Study:
    """Make the new study: the same settings, the same split, and the corrections among the training pairs.

    Args:
        study: The study that was corrected.
        plan: What :func:`plan_retraining` decided.
        name: The new study's name.

    Raises:
        ConfigError: The name cannot name a study.
        StudyError: There is a study of that name, or the old one has lost its data file.
    """
    source, config = study.source, study.config
    if source is None:
        raise StudyError("the study has lost its data file", where=str(study.folder / "data"),
                         remedy="Start a new study from the file")
    gone = {*plan.dropped, *plan.replaced}
    splits: dict[int, SplitName] = {
        pair.row: split for split in SPLITS for pair in load_split(study.folder / "data", split) if pair.row not in gone
    }
    with tempfile.TemporaryDirectory(prefix="assistant-builder-") as scratch:
        kept, whole = Path(scratch) / "kept.jsonl", Path(scratch) / "corrected.jsonl"
        columns = _write_kept(source, config.data.columns, splits, kept)
        mapping = append_pairs(
            kept, [(found.question, found.answer) for found in plan.trained], whole, columns, splits=splits
        )
        tree = config.model_dump(mode="json")
        tree["name"] = name.strip()
        tree["data"] |= {
            "source": whole.name, "columns": mapping,
            "max_train": None, "max_heldout": None,  # the split is already the sampled one
            "remove_leaks": "always",  # a question given away in other words is found, and left out, in the run
        }
        made = Study.create(parse_config(tree, where="settings"), whole)
        write_json(made.folder / "made_from.json", {"study": study.name})
        made.record_template_date(like=study)
        return made


def _write_kept(source: Path, columns: Mapping[str, str], rows: Iterable[int], target: Path) -> dict[str, str]:
    """Write the rows that the old study used, under their numbers; returns the columns to read them with."""
    table, roles = load_rows(source, columns)
    wanted = set(rows)
    write_rows([row for row in table.rows if row.row in wanted], target)
    # Named one by one, for rows left out may have been what told a column's role.
    return {**columns, **{role: name for role, name in roles.columns.items() if name}}
