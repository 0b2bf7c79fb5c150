"""The next version of a published assistant: its study, and its verdict against the version that is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.arms import ARMS
from assistant_builder.chat.feedback import (
    Correction,
    RetrainingPlan,
    create_retraining_study,
    plan_retraining,
    read_corrections,
)
from assistant_builder.errors import StudyError
from assistant_builder.export_formats import advice
from assistant_builder.i18n import Text, joined, m, text_of, written
from assistant_builder.retrieval.promise import is_promised, require_promise
from assistant_builder.study import Study
from assistant_builder.study.versions import (
    add_version,
    next_name,
    publish,
    read_versions,
    reject,
    served_version,
)
from evals.declaration import uses
from evals.report.schema import Report
from evals.study_compare.compare import compare_studies

Outcome = Literal["not trained", "no worse", "worse", "inconclusive"]
_WORST_FIRST: tuple[Outcome, ...] = ("worse", "inconclusive", "no worse")


@dataclass(frozen=True)
class VersionVerdict:
    """The verdict on a version against the one that is served.

    Attributes:
        outcome: ``not trained`` before the version is evaluated; ``inconclusive`` where an earlier one is not, either.
        sentence: The verdict with difference, interval and margin; empty before the evaluation.
        record: The result of :func:`evals.study_compare.compare_studies`; None before the evaluation.
    """

    outcome: Outcome
    sentence: Text = ""
    record: dict[str, Any] | None = None


def pending_corrections(root: Study) -> list[Correction]:
    """The corrections of the served version, on which the next one is trained."""
    return read_corrections(served_version(root))


def create_next_version(root: Study) -> tuple[Study, RetrainingPlan]:
    """Create the study of the next version: the split of the served one, and its corrections as training pairs.

    Args:
        root: The first study of the versions.

    Raises:
        StudyError: A newer version waits for a decision, or the data file is missing.
        DataError: There is no correction, or all of them are of test questions.
    """
    waiting = read_versions(root).candidate
    if waiting is not None:
        raise StudyError(
            m("the version {version} is neither published nor rejected", version=waiting),
            where=m("{study} {name}", name=root.name),
            remedy=m("Publish or reject it first"),
        )
    served = served_version(root)
    plan = plan_retraining(served, read_corrections(served))
    made = create_retraining_study(served, plan, next_name(root))
    add_version(root, made)
    return made, plan


def version_verdict(root: Study, version: Study) -> VersionVerdict:
    """Compare a version with the served one, and with the first one, on the test questions that they share.

    The bounds are those of the earlier version. Each further version that is tried on the same questions, or that is
    trained again, is compared at the level of a further look (:func:`evals.stats.intervals.look_level`): trying until
    one passes gains little.

    Args:
        root: The first study of the versions.
        version: The version.

    Raises:
        EvaluationError: The two share too few test questions.
    """
    if version.step("evaluate").state != "succeeded":
        return VersionVerdict("not trained")
    names, served = read_versions(root).names, served_version(root).recommended
    earlier = [served] if served.name == root.name else [served, root.recommended]
    if any(each.step("evaluate").state != "succeeded" for each in earlier):
        return VersionVerdict(
            "inconclusive",
            m(
                "The version before it was not evaluated, so the two cannot be compared; finish its run to know more, "
                "or judge the new one by its own report."
            ),
        )
    tries = max(
        1, names.index(version.name) if version.name in names else 1, uses(version, names[1:])
    )
    report = Report.load(served.report_file) if served.report_file.is_file() else None
    cell = ARMS[advice(report, served.config.arms).adapter].cell
    records = [compare_studies(each, version.recommended, tries=tries) for each in earlier]
    verdicts = [
        next((each for each in record["verdicts"] if each["cell"] == cell), None)
        for record in records
    ]
    if None in verdicts:
        return VersionVerdict(
            "inconclusive",
            m("The metric that decides was not scored in both versions."),
            records[0],
        )
    outcomes = {each["outcome"] for each in verdicts if each}
    outcome: Outcome = next(each for each in _WORST_FIRST if each in outcomes)
    tried = (
        ""
        if tries == 1
        else m("So far {count} versions were compared on these questions.", count=tries)
    )
    return VersionVerdict(
        outcome,
        joined(
            [
                *(text_of(each["said"]["sentence"], each["sentence"]) for each in verdicts if each),
                tried,
            ]
        ),
        records[0],
    )


def reject_if_worse(root: Study, version: Study) -> VersionVerdict:
    """:func:`version_verdict`; a version that is worse is rejected with the verdict as its reason."""
    found = version_verdict(root, version)
    if found.outcome == "worse" and read_versions(root).candidate == version.name:
        reject(root, version.name, written(found.sentence)[0])
    return found


def publish_version(root: Study, version: Study, *, anyway: bool = False) -> VersionVerdict:
    """Serve a version from now on if it is no worse than the served one, with the verdict as the reason.

    ``anyway``: also if it is worse, or if nothing shows that it is not.

    Raises:
        StudyError: It is not evaluated, or may be worse; it is to keep a promise that its report cannot make, so that
            it could not be served; or it is no version of the study.
        EvaluationError: The two share too few test questions.
    """
    found = version_verdict(root, version)
    if found.outcome == "not trained":
        raise StudyError(
            m("the version {version} is not evaluated", version=version.name),
            where=m("{study} {name}", name=root.name),
            remedy=m("Finish it with 'assistant-builder run {name}'", name=version.name),
        )
    if found.outcome != "no worse" and not anyway:
        raise StudyError(
            m(
                "the version {version} is not shown to be no worse: {sentence}",
                version=version.name,
                sentence=found.sentence,
            ),
            where=m("{study} {name}", name=root.name),
            remedy=m("Reject it, or publish it anyway"),
        )
    if not is_promised(version):
        require_promise(version, version.config.arms[0])
    publish(root, version.name, written(found.sentence)[0])
    return found
