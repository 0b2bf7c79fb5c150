"""Which approach suits the data, from the recall of the index on validation questions, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.atomic_io import read_json
from assistant_builder.config import Approach
from assistant_builder.i18n import t
from assistant_builder.retrieval.build import RECALL
from assistant_builder.study import Study
from assistant_builder.study.contents import RecallFile

FOUND = 0.5
"""Share of the covered validation questions whose fact must be found for the grounded approach."""


@dataclass(frozen=True)
class Recommendation:
    """The approach that suits the data, and why, in one sentence."""

    approach: Approach
    why: str


def recommend(recall: Mapping[str, Any] | None, facts: int) -> Recommendation:
    """Recommend an approach.

    Args:
        recall: ``recall.json`` of the index; None if the study has no index.
        facts: Facts in a prompt.
    """
    if recall is None:
        return Recommendation("memory", t("The training pairs are too many to look up."))
    covered = recall["covered"]
    if not covered:
        return Recommendation(
            "grounded",
            t(
                "Validation asks for no training answer in other words, so finding answers cannot be "
                "measured. Looking up serves questions about answers that occur once."
            ),
        )
    known = sorted(map(int, recall["hits"]))
    at = max((k for k in known if k <= facts), default=known[0])
    found, first = recall["hits"][str(at)], recall["hits"]["1"]
    most = t("the first {at} facts", at=at) if at > 1 else t("the first fact")
    counts = t(
        "{most} that are found contain the right answer for {found:,} of {covered:,} validation questions, "
        "and copying the first one answers {first:,} of them",
        most=most,
        found=found,
        covered=covered,
        first=first,
    )
    if found >= FOUND * covered:
        return Recommendation("grounded", f"{counts[0].upper()}{counts[1:]}.")
    return Recommendation(
        "memory",
        t("{counts}, which is too few for looking up.", counts=counts[:1].upper() + counts[1:]),
    )


def recommended_approach(study: Study) -> str:
    """The approach that suits a study whose data steps are done, why, and whether the study has it."""
    path, config = study.retrieval_folder / RECALL, study.config
    recall = read_json(path, RecallFile) if path.is_file() else None
    found = recommend(recall, config.retrieval.facts)
    names = {"grounded": t("looking facts up"), "memory": t("answering from memory")}
    suits = t(
        "Approach: {name} ({approach}) suits these data.",
        name=names[found.approach],
        approach=found.approach,
    )
    chosen = (
        ""
        if found.approach in config.approaches
        else t(
            "This study has the {own} approach; 'assistant-builder run {name} --set approaches={own},{other}' compares "
            "both.",
            own=config.approaches[0],
            other=found.approach,
            name=study.name,
        )
    )
    return " ".join(filter(None, (suits, found.why, chosen)))
