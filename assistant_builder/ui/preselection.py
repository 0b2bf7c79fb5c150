"""What the page selects before the user does: the settings with which both arms fit this machine, and why.

Pure: no gradio, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.trust import allows_code
from assistant_builder.planning.advice import Advice, advise
from assistant_builder.planning.plan import Plan
from assistant_builder.planning.saving import cheapest_saving
from assistant_builder.study import Study
from assistant_builder.ui.options import get_value
from assistant_builder.ui.readiness import Planned, plan_of, planned_data

PLANNED_KEYS = ("train.micro_batch_size", "train.gradient_checkpointing", "train.max_length")
"""Settings that decide the memory of a training and that the planner may select; the user may change them again."""


@dataclass(frozen=True)
class Preselection:
    """What the planner selects for a study on this machine.

    Attributes:
        config: The settings with the selected ones in place.
        before: The plan of the settings as they were.
        after: The plan of ``config``.
        changes: Dotted key → value of what is selected otherwise than it was.
        advice: The method that the plan recommends.
    """

    config: StudyConfig
    before: Plan
    after: Plan
    changes: Mapping[str, Any]
    advice: Advice


def preselect(study: Study, config: StudyConfig | None = None) -> Preselection | None:
    """Select what makes the study's arms fit, or where that is out of question the 4-bit one; change nothing else.

    Args:
        study: The study; where the planner's own settings come from, before anything is selected.
        config: The other settings, as they stand on the form; by default the study's.

    Returns:
        None where the model's shape is not known here, or the settings do not go together.
    """
    own = study.config
    try:
        start = (config or own).with_changes({key: get_value(own, key) for key in PLANNED_KEYS})
        data = planned_data(study, start.data)
        ref = resolve(start.model.base, trust_remote_code=allows_code(start.model))
        plan = plan_of(ref, start, data if isinstance(data, Planned) else None)
        if plan is None:
            return None
        arms = start.arms
        changes = cheapest_saving(plan, *arms) or (cheapest_saving(plan, "qlora") if "qlora" in arms else {})
        after = plan.with_changes(changes)
    except AssistantBuilderError:
        return None
    return Preselection(after.config, plan, after, changes, advise(after))


def untouched(study: Study) -> bool:
    """Whether no step of a study has begun, so that its settings are still to be chosen."""
    return study.runner() is None and all(study.step(step).state == "queued" for step in study.steps)
