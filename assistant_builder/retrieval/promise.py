"""The rule for declining as it is served where the owner wants the promise of the report to be kept.

The promise is that at most a share of what an assistant answers is wrong; the report finds the threshold of confidence
at which it holds (:mod:`evals.report.promise`).
"""

from __future__ import annotations

from typing_extensions import TypedDict

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_json
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.retrieval.decline import DeclineRule
from assistant_builder.study import Study

BROKEN = "promise.json"  # file in the folder of the first version: which served assistant broke its promise


class Broken(TypedDict):
    """Content of :data:`BROKEN`: the name of the assistant with its version, and what it says instead."""

    model: str
    sentence: str


class _At(TypedDict, total=False):
    threshold: float | None


class _Promise(TypedDict, total=False):
    cells: dict[str, _At]


class _Report(TypedDict, total=False):
    promise: _Promise | None


def kept(study: Study, arm: str, rule: DeclineRule) -> DeclineRule:
    """The rule of an assistant as it is served: it declines as often as the promise needs, if that is to be kept.

    Args:
        study: A grounded study.
        arm: An arm, or ``copy``.
        rule: The rule as it was fitted.
    """
    threshold = promised_threshold(study, arm) if study.config.retrieval.keep_promise else None
    return rule if threshold is None else rule.at_least(threshold)


def promised_threshold(study: Study, arm: str) -> float | None:
    """The threshold at which the promise of the report holds; None if nothing is promised, or there is no report."""
    path = study.report_file
    if not path.is_file():
        return None
    promise = read_json(path, _Report).get("promise") or {}
    cell = ARMS[arm].cell if arm in ARMS else arm
    return promise.get("cells", {}).get(cell, {}).get("threshold")


def is_promised(study: Study) -> bool:
    """Whether the report promises something of an assistant of the study."""
    return any(promised_threshold(study, arm) is not None for arm in (*study.config.arms, "copy"))


def require_promise(study: Study, arm: str) -> None:
    """Refuse to put an assistant before visitors with a promise that it cannot keep.

    Raises:
        StudyError: The promise is to be kept, and the report does not make it.
    """
    if not study.config.retrieval.keep_promise or promised_threshold(study, arm) is not None:
        return
    able = [each for each in study.config.arms if promised_threshold(study, each) is not None]
    other = m("Serve {name}:{able} alone", able=able[0], name=study.name) if able else None
    raise StudyError(
        m(
            "{retrieval.keep_promise} is on, and its report cannot make the promise for {arm}",
            arm=arm,
        ),
        where=m("{study} {name}", name=study.name),
        remedy=other
        or m(
            "Turn it off, or set {retrieval.most_wrong} to a larger share and run the {study} again; the report shows "
            "what can be promised"
        ),
    )


def keep_promise(study: Study, *, keep: bool) -> None:
    """Change whether the promise is kept by what is served from now on."""
    if study.config.retrieval.keep_promise != keep:
        study.write_config(study.config.with_changes({"retrieval.keep_promise": keep}))


def stopped(study: Study, root: Study, model: str) -> str | None:
    """What a served assistant says to every question because it broke its promise; None if it answers.

    Args:
        study: The version that is served.
        root: The first study of its versions.
        model: The name of the assistant with its version.
    """
    path = root.folder / BROKEN
    if not path.is_file() or not study.config.retrieval.stop_if_broken:
        return None
    try:
        broken = read_json(path, Broken)
    except StudyError:  # damaged
        return None
    return broken["sentence"] if broken["model"] == model else None
