"""The rule for declining as it is served where the owner wants the promise of the report to be kept.

The promise is that at most a share of what an assistant answers is wrong; the report finds the threshold of confidence
at which it holds (:mod:`evals.report.promise`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from typing_extensions import TypedDict

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_json
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.retrieval.decline import DeclineRule
from assistant_builder.retrieval.index import RECORD, IndexRecord
from assistant_builder.study import Study

BROKEN = "promise.json"  # file in the folder of the first version: the assistants that broke their promise


IfBroken = Literal["answer", "copy", "decline"]
"""What an assistant does that broke its promise."""


class Broken(TypedDict):
    """Content of :data:`BROKEN`: names of assistants with their versions, and what they say where they decline."""

    models: list[str]
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


def version_name(study: Study, arm: str) -> str:
    """The name of a served assistant with that of its version.

    That of copied answers contains the hash of the embedder of their index, because training replaces their search.
    """
    record, name = study.retrieval_folder / RECORD, f"{study.folder.name}-{arm}"
    if arm == "copy" and record.is_file():
        with suppress(StudyError):
            name += f"-{read_json(record, IndexRecord)['embedder']['sha256'][:8]}"
    return name


def read_broken(root: Study) -> Broken:
    """The assistants that broke their promise; none if the file is missing or damaged."""
    path = root.folder / BROKEN
    if path.is_file():
        with suppress(StudyError):
            return read_json(path, Broken)
    return {"models": [], "sentence": ""}


def if_broken(study: Study, root: Study, arm: str) -> IfBroken:
    """What a served assistant does: ``answer`` unless it broke its promise, and the owner chose otherwise.

    Copying is no way out where it broke its own promise, or where the report cannot make the promise that is to be
    kept.

    Args:
        study: The version that is served.
        root: The first study of its versions.
        arm: An arm, or ``copy``.
    """
    if version_name(study, arm) not in read_broken(root)["models"]:
        return "answer"
    config = study.config.retrieval
    kept = not config.keep_promise or promised_threshold(study, "copy") is not None
    if config.if_broken == "copy" and not (arm != "copy" and kept):
        return "decline"
    return config.if_broken
