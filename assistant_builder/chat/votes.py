"""Blind votes between the two assistants: ``votes.jsonl`` of a study, and what they add up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.config import ARMS
from assistant_builder.data import Message
from assistant_builder.errors import StudyError
from assistant_builder.files import append_jsonl, read_json, read_jsonl
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
        qlora: Votes for QLoRA.
        lora: Votes for 16-bit LoRA.
        ties: Both as good.
        both_bad: Neither good.
        outdated: Votes on adapters that have been trained anew since; not counted.
        repeated: Later votes on the same two answers, given when it was known who is who; not counted.
        p_value: Two-sided sign test over the votes that prefer one: how often luck alone would part them so unevenly.
    """

    qlora: int = 0
    lora: int = 0
    ties: int = 0
    both_bad: int = 0
    outdated: int = 0
    repeated: int = 0
    p_value: float = 1.0

    @property
    def counted(self) -> int:
        """Votes that count, undecided ones among them."""
        return self.qlora + self.lora + self.ties + self.both_bad


def votes_file(study: Study) -> Path:
    """``votes.jsonl``, which nothing but :func:`record_vote` writes."""
    return study.folder / "votes.jsonl"


def model_of(study: Study) -> dict[str, str]:
    """The base model and the adapters that answer now, as a vote holds them.

    Raises:
        StudyError: An arm is not trained.
    """
    adapters: dict[str, str] = {}
    for arm in ARMS:
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
        answers={arm: turn.answers[arm].text for arm in ARMS},
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
        won["qlora"], won["lora"], said["tie"], said["both bad"], outdated, len(votes) - outdated - len(kept),
        sign_p_value(won["qlora"], won["lora"]),
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
    decided = found.qlora + found.lora
    if not decided:
        shown = "no vote prefers one yet"
    elif found.p_value > SIGNIFICANT:
        shown = f"no preference shown, p = {found.p_value:.2f}"
    else:
        p_value = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
        shown = f"{'QLoRA' if found.qlora > found.lora else 'LoRA'} is preferred, {p_value}"
    return f"QLoRA {found.qlora}, LoRA {found.lora}{ties}{bad}: {shown}."
