"""Whether a promise still holds for what visitors ask, by answers that a person judged.

While questions of visitors are kept with their texts, some answers are drawn to be judged, about ten a week, with a
probability that is recorded and depends on nothing but how many were asked before. The test is by betting against "at
most this share is wrong" (Waudby-Smith and Ramdas 2024, JRSS-B 86): the wealth of a gambler who cannot expect to gain
if that is true, so that it ever reaches 20 with a probability of at most 5 % (Ville's inequality). It may be looked at
after each judgement. A promise is also withdrawn where visitors ask questions unlike those of the test
(:mod:`assistant_builder.chat.drift`), until the same bet for it, not against it, reaches 20.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assistant_builder.atomic_io import write_json
from assistant_builder.chat.drift import Drift, read_drift
from assistant_builder.chat.visitor_log import checked, log_file, opened
from assistant_builder.data import load_split
from assistant_builder.errors import DataError
from assistant_builder.i18n import Message, Text, joined, m, mn
from assistant_builder.retrieval.decline import decline_sentence
from assistant_builder.retrieval.promise import (
    BROKEN,
    Broken,
    IfBroken,
    if_broken,
    read_broken,
    version_name,
)
from assistant_builder.study import Study

FALSE_ALARMS = 0.05
"""Probability that a promise that holds is ever withdrawn."""
MOST_SHOWN = 5
"""Answers that are shown to be judged at a time, the oldest first."""
_STAKES = (0.025, 0.05, 0.1, 0.25)
"""Shares of the wealth that are lost with a right answer; the wealth is divided among them."""
_STAKES_FOR = (0.5, 0.9)
"""The same of the bet for the promise, lost with a wrong answer."""
_MOST_NEEDED = 10_000
"""Right answers that are asked for at most, where many judged ones are wrong."""
_MOST_GROWTH = 100.0  # beyond any doubt, and far from an overflow
_Counts = tuple[int, int]
_Open = tuple[str, str | None, str | None]
_OF_MODEL = "FROM drawn JOIN question USING (id) WHERE drawn.chance > drawn.draw AND model = "
"""Drawn answers of an assistant, by its name with its version."""
_LAST = "(SELECT model FROM drawn JOIN question USING (id) ORDER BY question.rowid DESC LIMIT 1)"
"""The assistant that answered last, in the order of writing: the clock can have been ahead."""


@dataclass(frozen=True)
class DrawnAnswer:
    """An answer that waits to be judged."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Watch:
    """What the judged answers say.

    Attributes:
        most_wrong: The share of wrong answers that is promised.
        judged: Number of judged answers of the served version.
        wrong: The wrong ones of these.
        evidence: Wealth of the bet against the promise, 1 at the beginning.
        waiting: Answers to judge.
        instead: Assistants of the served version that broke their promise, by name, and what they do since.
        drift: How visitors' questions differ from those of the test; None while they are few.
    """

    most_wrong: float
    judged: int = 0
    wrong: int = 0
    evidence: float = 1.0
    waiting: tuple[DrawnAnswer, ...] = ()
    instead: Mapping[str, IfBroken] = field(default_factory=dict)
    drift: Drift | None = None

    @property
    def broken(self) -> bool:
        """Whether the judged answers speak against the promise."""
        return self.evidence >= 1 / FALSE_ALARMS

    @property
    def needed(self) -> int:
        """Further right answers, without a wrong one, that would show the promise for what visitors ask."""
        return bisect_left(
            range(_MOST_NEEDED),
            1 / FALSE_ALARMS,
            key=lambda more: evidence_for(self.judged + more, self.wrong, self.most_wrong),
        )

    @property
    def holds(self) -> bool:
        """Whether it is neither broken nor withdrawn: made for what visitors ask, or shown by their judged answers."""
        return not self.broken and not (self.unlike and self.needed)

    @property
    def unlike(self) -> bool:
        """Whether visitors ask questions unlike those for which the promise was made."""
        return self.drift is not None and self.drift.unlike


def evidence_against(judged: int, wrong: int, most: float) -> float:
    """The wealth of the bet against "at most ``most`` of the answers are wrong"; their order does not matter."""
    return _wealth(judged - wrong, wrong, most, _STAKES)


def evidence_for(judged: int, wrong: int, most: float) -> float:
    """The wealth of the bet against "more than ``most`` of the answers are wrong"."""
    return _wealth(wrong, judged - wrong, 1 - most, _STAKES_FOR)


def _wealth(lost: int, won: int, share: float, stakes: Sequence[float]) -> float:
    """Of a gambler who wins with a probability of at most ``share``."""
    growth = [
        lost * math.log1p(-stake) + won * math.log1p(stake * (1 / share - 1)) for stake in stakes
    ]
    return math.fsum(math.exp(min(each, _MOST_GROWTH)) for each in growth) / len(stakes)


def read_watch(study: Study, served: Study) -> Watch:
    """What is known about the answers of the assistant that answered last.

    Args:
        study: The first study of the versions, which keeps the questions of visitors.
        served: The version that is served, whose promise is watched.
    """
    most_wrong, path = served.config.retrieval.most_wrong, log_file(study)
    if not path.is_file():
        return Watch(most_wrong)
    with opened(path) as connection:
        judged, wrong = _counts(connection, _LAST)
        waiting = checked(
            connection.execute(
                f"SELECT id, question, answer {_OF_MODEL} {_LAST} AND correct IS NULL ORDER BY time, id LIMIT ?",
                (MOST_SHOWN,),
            ).fetchall(),
            _Open,
        )
    done = {arm: if_broken(served, study, arm) for arm in (*served.config.arms, "copy")}
    return Watch(
        most_wrong,
        judged,
        wrong,
        evidence_against(judged, wrong, most_wrong),
        tuple(DrawnAnswer(id, question or "", answer or "") for id, question, answer in waiting),
        {version_name(served, arm): does for arm, does in done.items() if does != "answer"},
        read_drift(study, served),
    )


def judge(study: Study, served: Study, id: str, *, right: bool) -> Watch:
    """Record whether a drawn answer is right; a later judgement replaces it.

    Args:
        study: The first study of the versions.
        served: The version that is served, whose promise is judged.
        id: The id of the answer.
        right: The judgement.

    Returns:
        What is known then.

    Raises:
        DataError: No answer of this id was drawn.
    """
    path, models = log_file(study), list[str]()
    if path.is_file():
        with opened(path) as connection:
            connection.execute(
                "UPDATE drawn SET correct = ? WHERE id = ? AND chance > draw", (int(right), id)
            )
            found = connection.execute(
                "SELECT model FROM drawn JOIN question USING (id) WHERE chance > draw AND id = ?",
                (id,),
            )
            models = [str(model) for (model,) in found]
            judged, wrong = _counts(connection, "?", *models) if models else (0, 0)
    if not models:
        raise DataError(
            m("no answer with the id {key!r} was drawn", key=id),
            where="inbox",
            remedy=m("Use an id that the inbox lists"),
        )
    most = served.config.retrieval.most_wrong
    is_broken = Watch(most, judged, wrong, evidence_against(judged, wrong, most)).broken
    broken = [each for each in read_broken(study)["models"] if each not in models]
    if is_broken:
        broken += models
    if broken:
        sentence = decline_sentence(load_split(served.folder / "data", "train"))
        content: Broken = {"models": broken, "sentence": sentence}
        write_json(study.folder / BROKEN, content)
    else:
        (study.folder / BROKEN).unlink(missing_ok=True)
    return read_watch(study, served)


def _counts(connection: sqlite3.Connection, model: str, *values: str) -> _Counts:
    """How many answers of an assistant were judged, and how many of these are wrong."""
    statement = f"SELECT COUNT(correct), COUNT(NULLIF(correct, 1)) {_OF_MODEL} {model}"
    (counts,) = checked(connection.execute(statement, values).fetchall(), _Counts)
    return counts


def said(watch: Watch, *, promised: bool) -> Text:
    """What the judged answers say, and what was done; ``promised``: whether the report made the promise."""
    instead = [
        m("{name} broke its promise, and answers are copied from the data since.", name=name)
        if does == "copy"
        else m("{name} broke its promise, and declines every question since.", name=name)
        for name, does in watch.instead.items()
    ]
    changed = list(watch.drift.sentences()) if watch.drift is not None else []
    if promised and watch.unlike and not watch.broken:
        changed.append(_for_others(watch))
    return joined([_counted(watch, promised=promised), *instead, *changed])


def _for_others(watch: Watch) -> Message:
    if watch.needed:
        return mn(
            "The promise was made for questions like those of the test, and is withdrawn: {count} more right answer, "
            "and no wrong one, would show it for what visitors ask.",
            "The promise was made for questions like those of the test, and is withdrawn: {count} more right answers, "
            "and no wrong one, would show it for what visitors ask.",
            watch.needed,
        )
    return m("The judged answers show the promise for what visitors ask, too.")


def _counted(watch: Watch, *, promised: bool) -> Message:
    values: dict[str, Any] = {"wrong": watch.wrong, "most": 100 * watch.most_wrong}
    counted = mn(
        "Judged wrong: {wrong} of {count} answer.",
        "Judged wrong: {wrong} of {count} answers.",
        watch.judged,
        **values,
    )
    if watch.broken:
        return m(
            "{counted} That speaks against “at most {most:g} % are wrong”: let it decline more, or train the next "
            "version with the right answers, before it answers further visitors.",
            counted=counted,
            **values,
        )
    if not watch.judged:
        return m("No answer of the assistant that is served now was judged yet.")
    if not promised:
        return counted
    return m(
        "{counted} Nothing speaks against “at most {most:g} % are wrong” so far.",
        counted=counted,
        **values,
    )
