"""A conversation with the assistants of a study, as turns of a question and its answers.

The browser stores conversations, so records are validated when they are read; invalid turns are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS, base_owner, label
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import t
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.session import BASE
from assistant_builder.retrieval.copying import COPY

Choice = Literal["a", "b", "tie", "both bad"]
CHOICES: tuple[Choice, ...] = ("a", "b", "tie", "both bad")
DEFAULT_SIDES = (QLORA.name, LORA.name)
"""Arms on the left and on the right if the turn is not blind."""
MAX_TURNS = 100


def default_sides(arms: Sequence[str]) -> tuple[str, str]:
    """The default sides for a study with these arms; the only trained arm is on the left."""
    first, second = sorted(DEFAULT_SIDES, key=lambda arm: arm not in arms)
    return first, second


def title_of(speaker: str, arms: Sequence[str] = TWINS) -> str:
    """Label of a model in a study with these arms."""
    if speaker == COPY:
        return t("Looked up, not trained")
    return (
        label(speaker)
        if speaker != BASE
        else t("Base model, untuned ({kind})", kind=ARMS[base_owner(arms or TWINS)].base_label)
    )


class Source(TypedDict):
    """A fact, or a statement of a document with the passage that it is from; ``row`` is None for a statement."""

    row: int | None
    question: str
    answer: str
    similarity: float
    document: NotRequired[str]
    page: NotRequired[int | None]
    before: NotRequired[str]
    passage: NotRequired[str]
    after: NotRequired[str]


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    ending: str = "stop"  # ``stop``, ``length``, ``cancelled`` or ``failed``
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float | None = None
    sources: tuple[Source, ...] = ()  # facts that a grounded assistant was given, the best first
    declined: bool = False  # whether it declined by its rule
    suggestions: tuple[str, ...] = ()  # questions of the data that it offers
    # of a declined question, English texts and messages: why, and what to add to the data
    why: tuple[tuple[str, dict[str, Any] | None], ...] = ()


@dataclass(frozen=True)
class Turn:
    """A question and its answers."""

    question: str
    # model → answer; empty during generation or after an interruption
    answers: dict[str, Answer] = field(default_factory=dict)
    sides: tuple[str, str] = DEFAULT_SIDES  # arms on the left (A) and on the right (B)
    # whether the question was asked in blind mode: without the earlier turns, and with hidden sides until the vote
    blind: bool = False
    vote: Choice | None = None
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def hidden(self) -> bool:
        """Whether the sides must still be hidden."""
        return self.blind and self.vote is None

    @property
    def votable(self) -> bool:
        """Whether both assistants have answered and the vote is pending."""
        return self.hidden and all(
            arm in self.answers
            and self.answers[arm].text
            and self.answers[arm].ending in ("stop", "length")
            for arm in TWINS
        )

    @property
    def identical(self) -> bool:
        """Whether both answers have the same text."""
        return len({self.answers[arm].text for arm in TWINS}) == 1 if self.votable else False


_TURN = TypeAdapter(Turn)


@dataclass(frozen=True)
class Conversation:
    """The turns so far, oldest first."""

    turns: tuple[Turn, ...] = ()

    def messages(self, speaker: str, question: str, *, system: str, alone: bool) -> list[Message]:
        """The messages for a model: the system prompt, its own earlier turns unless ``alone``, and the question.

        A blind question is sent without earlier turns: no earlier answer reveals a side, both arms get the same prompt,
        and votes are independent.
        """
        sent = [Message("system", system)] if system else []
        for turn in () if alone else self.turns:
            if speaker in turn.answers and turn.answers[speaker].text and not turn.blind:
                sent += [
                    Message("user", turn.question),
                    Message("assistant", turn.answers[speaker].text),
                ]
        return [*sent, Message("user", question)]

    def before(self, place: int) -> Conversation:
        """The conversation before a turn."""
        return Conversation(self.turns[:place])

    def with_turn(self, turn: Turn) -> Conversation:
        """Append a turn; only the last :data:`MAX_TURNS` turns are kept."""
        return Conversation((*self.turns, turn)[-MAX_TURNS:])

    def with_vote(self, vote: Choice) -> Conversation:
        """Set the vote of the last turn."""
        return Conversation((*self.turns[:-1], replace(self.turns[-1], vote=vote)))

    def to_record(self) -> list[dict[str, Any]]:
        """The record that the browser stores."""
        return [asdict(turn) for turn in self.turns]


def conversation_from_record(record: Any) -> Conversation:
    """Parse the result of :meth:`Conversation.to_record`; invalid turns from the browser are dropped."""
    turns = []
    for entry in record if isinstance(record, list) else []:
        try:
            turn = _TURN.validate_python(entry)
        except (ValueError, ConfigError):
            continue
        if sorted(turn.sides) == sorted(DEFAULT_SIDES):
            known = [name for name in (*ARMS, BASE, COPY) if name in turn.answers]
            turns.append(replace(turn, answers={name: turn.answers[name] for name in known}))
    return Conversation(tuple(turns[-MAX_TURNS:]))
