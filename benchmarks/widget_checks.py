"""What has to hold after many visitors of the chat widget, for :mod:`benchmarks.widget_load`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from assistant_builder.chat.masking import mask
from assistant_builder.chat.visitor_log import read_questions
from assistant_builder.serving.visitor_limits import Limits
from assistant_builder.study import Study
from benchmarks.widget_visitors import NOBODY, Question, Site

LATER_SECONDS = 0.3
"""What the first text may come later through the widget than from the endpoint, at the 95th percentile."""
GROWTH = 1.05
"""What memory at the end may be of that after the first minute."""
_OPEN_FILES = 3
"""Files that may be open at rest in addition to those before the load: a database that is being written."""


@dataclass(frozen=True)
class Sample:
    """What the server holds at one moment.

    Attributes:
        seconds: Since the load began.
        memory: Resident bytes of the server.
        processes: Resident bytes of the server and its processes.
        files: Open files and connections of the server.
        threads: Threads of the server.
    """

    seconds: float
    memory: int
    processes: int
    files: int
    threads: int


@dataclass
class Load:
    """What happened, see :func:`run_load`."""

    site: Site
    first_texts: list[tuple[float, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None  # at rest
    after: Sample | None = None
    crowd: list[Question] = field(default_factory=list)  # at once, of one address
    hasty: list[Question] = field(default_factory=list)  # one after another, of one address
    surge: list[Question] = field(default_factory=list)  # at once, more than may wait
    surge_time: tuple[float, float] = (0.0, 0.0)
    rested: list[Question] = field(default_factory=list)  # when all others have ended
    again: list[Question] = field(default_factory=list)  # of addresses whose questions were left
    said: str = ""  # standard error of the server
    code: int | None = None  # its exit code


@dataclass(frozen=True)
class Check:
    """A line of the result."""

    name: str
    found: str
    passed: bool


def checks(load: Load, study: Study) -> list[Check]:
    """What has to hold; the server has ended."""
    limits, site = Limits(), load.site
    asked = [each for each in site.asked if each.status]
    ended = [each for each in asked if each.ended]
    refused = [each for each in asked if each.status == 429]
    mixed = [sentence for each in ended if (sentence := site.topic.wrong(each))]
    broken = [
        f"{each.text}: {each.status} {each.error}"
        for each in site.asked
        if not (each.ended or each.left or each.status == 429)
    ]
    unannounced = [each for each in refused if not _is_retry(each.retry, limits)]
    rising = [
        each
        for each in asked
        if any(a <= b for a, b in zip(each.places, each.places[1:], strict=False))
    ]
    meant = {id(each) for each in (*load.crowd, *load.hasty)}
    early = [
        each
        for each in refused
        if id(each) not in meant and not load.surge_time[0] <= each.sent <= load.surge_time[1]
    ]
    places = [place for each in asked for place in each.places]
    lost, voted = lost_in_log(site, study), sum(each.vote is not None for each in ended)

    def one(name: str, found: object, passed: bool) -> Check:
        return Check(name, str(found), passed)

    return [
        one("questions answered and read to the end", len(ended), bool(ended)),
        one("questions left by their visitors", sum(each.left for each in asked), True),
        one("answers to another question, or cut", _listed(mixed), not mixed),
        one("questions without an answer or a refusal", _listed(broken), not broken),
        one("other faults", _listed(site.wrong), not site.wrong),
        one("answers missing, doubled or different in the log", _listed(lost), not lost),
        one("votes", voted, voted > 0),
        one(
            "places told, highest",
            f"{len(places)}, {max(places, default=0)}",
            0 < max(places, default=0) <= limits.waiting,
        ),
        one("places that did not go down", len(rising), not rising),
        one(
            "refused: at once from one address",
            f"{_refused(load.crowd)} of {len(load.crowd)}",
            _refused(load.crowd) == len(load.crowd) - limits.open,
        ),
        one(
            "refused: too many from one address",
            f"{_refused(load.hasty)} of {len(load.hasty)}",
            _refused(load.hasty) == len(load.hasty) - limits.questions,
        ),
        one(
            "refused: more than may wait",
            f"{_refused(load.surge)} of {len(load.surge)}",
            _refused(load.surge) > 0,
        ),
        one("refused: others", len(early), not early),
        one("refusals without Retry-After", len(unannounced), not unannounced),
        one(
            "places taken when nobody asks",
            sum(bool(each.places) for each in load.rested),
            bool(load.rested) and not any(each.places for each in load.rested),
        ),
        one(
            "addresses that left and may not ask again",
            _refused(load.again),
            not _refused(load.again),
        ),
        *_growth(load),
        one(
            "first text later than from the endpoint, 95 %",
            f"{1000 * later(load)[1]:.0f} ms",
            later(load)[1] <= LATER_SECONDS,
        ),
        one(
            "exit code, errors of the server",
            f"{load.code}, {load.said.strip()[-300:] or 'none'}",
            load.code in (0, -15) and load.said.strip() in ("", _COPYING),
        ),
    ]


def _refused(asked: Sequence[Question]) -> int:
    return sum(each.status == 429 for each in asked)


_COPYING = "assistant-builder: Answers are looked up in the data, not trained."
"""What ``serve --mode copy`` says."""


def _is_retry(value: str | None, limits: Limits) -> bool:
    return value is not None and value.isdigit() and 1 <= int(value) <= limits.seconds


def _listed(faults: Sequence[str]) -> str:
    return f"{len(faults)}{': ' + '; '.join(faults[:3]) if faults else ''}"


def lost_in_log(site: Site, study: Study) -> list[str]:
    """What is wrong in the log of a server that has ended.

    Every answer that was read to its end is there once with its vote, as it was sent but for what is masked. A question
    that was left is there if its answer was complete before the server knew; a refused one is not.
    """
    rows = {row.id: row for row in read_questions(study)}
    faults = []
    for each in filter(lambda each: each.ended, site.asked):
        row = rows.pop(each.id, None)
        if row is None:
            faults.append(f"{each.text} is not kept")
        elif (
            row.question,
            row.answer,
            row.visitor,
            row.declined,
            row.vote,
            row.suggestion or "",
        ) != (
            mask(each.text),
            mask(each.answer),
            each.tab,
            each.declined,
            each.vote,
            mask(each.suggestion),
        ):
            faults.append(f"{each.text} is kept as {row}")
    left: dict[tuple[str, str], list[str]] = {}  # a visitor can leave one question twice
    for each in (each for each in site.asked if each.left):
        left.setdefault((mask(each.text), each.tab), []).append(_beginning(each.answer))
    for row in (row for row in rows.values() if row.visitor != NOBODY):
        unread = left.get((row.question or "", row.visitor), [])
        begun = next((each for each in unread if (row.answer or "").startswith(each)), None)
        if begun is not None:
            unread.remove(begun)
        else:
            faults.append(f"nobody got {row}")
    return faults


def _beginning(text: str) -> str:
    """What was read of an answer, up to what may be half of a masked number or address."""
    return re.split(r"\d", mask(text), maxsplit=1)[0].rpartition(" ")[0]


def _growth(load: Load) -> Iterator[Check]:
    """What the server holds after the warm-up and at the end."""
    length = load.samples[-1].seconds
    warm = warm_up(length)
    first = [each for each in load.samples if warm * 0.8 <= each.seconds <= warm]
    last = [each for each in load.samples if each.seconds >= length - warm * 0.2]
    for name in ("memory", "processes", "files", "threads"):
        before, after = (
            statistics.median(getattr(each, name) for each in part) for part in (first, last)
        )
        shown = [
            f"{value / 1e6:.1f} MB" if name in ("memory", "processes") else f"{value:g}"
            for value in (before, after)
        ]
        label = {
            "memory": "memory of the server",
            "processes": "memory with its processes",
            "files": "open files",
            "threads": "threads",
        }[name]
        # visitors have connections, whose number varies
        most = before * GROWTH if name in ("memory", "processes") else 1.25 * before + 5
        yield Check(f"{label} after {warm:.0f} s and at the end", " → ".join(shown), after <= most)
    assert load.before is not None and load.after is not None
    rest = load.before, load.after
    yield Check(
        "open files at rest, before and after",
        f"{rest[0].files} → {rest[1].files}",
        rest[1].files <= rest[0].files + _OPEN_FILES,
    )


def warm_up(seconds: float) -> float:
    """Seconds after which what the server holds must not grow: the first minute, or a quarter of a short load."""
    return min(60.0, seconds / 4)


def later(load: Load) -> tuple[float, float]:
    """Median and 95th percentile of the seconds by which the first text comes later through the widget."""
    differences = sorted(widget - endpoint for widget, endpoint in load.first_texts)
    return statistics.median(differences), percentile(differences, 0.95)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
