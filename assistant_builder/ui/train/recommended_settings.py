"""What the page selects before the user does: the settings with which both arms fit this machine, and why.

Pure: no gradio, no model.

What the planner selected for this machine, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, QLORA
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.remote_code import allows_code
from assistant_builder.planning.advice import Advice, advise, cheapest_saving
from assistant_builder.planning.plan import Plan
from assistant_builder.study import Study
from assistant_builder.ui.html import callout
from assistant_builder.ui.settings_form import get_value, study_options
from assistant_builder.ui.train.preflight import Planned, plan_of, planned_data
from evals.report.format import size

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
        changes = cheapest_saving(plan, *arms) or (cheapest_saving(plan, QLORA.name) if QLORA.name in arms else {})
        after = plan.with_changes(changes)
    except AssistantBuilderError:
        return None
    return Preselection(after.config, plan, after, changes, advise(after))


def untouched(study: Study) -> bool:
    """Whether no step of a study has begun, so that its settings are still to be chosen."""
    return study.run_record() is None and all(study.step(step).state == "queued" for step in study.steps)


def selected_note(seen: Preselection, now: StudyConfig) -> Markup:
    """What is selected for this machine, with the reason, and what of it the form holds otherwise by now.

    Args:
        seen: The selection.
        now: The settings on the form.
    """
    machine = seen.after.machine
    memory = f"{_needed(seen.after)}, and {size(seen.after.memory_bytes)} are free on {machine.name}"
    if seen.changes:
        title = f"Selected for {machine.name}"
        chosen = ", ".join(f"{study_options()[key].title} {value} instead of {get_value(seen.before.config, key)}"
                           for key, value in seen.changes.items())
        reason = (f"{chosen}. As it was, training would take {_needed(seen.before)}; so it takes {memory}.")
    else:
        title = "Nothing had to be changed for memory" if _fits(seen.after) else "No setting makes this fit"
        again = "Activations are recomputed to that end. " if seen.after.lora.checkpointing else ""
        reason = f"{again}Training takes {memory}."
    if seen.advice.method in ARMS:
        if seen.after.config.compares:
            reason += f" Recommended of the twins: {ARMS[seen.advice.method].short}. {seen.advice.why}"
        if not _fits(seen.after) and seen.after.qlora.fit != "no":
            reason += " QLoRA alone fits: choose it under Arms, among all settings."
    differing = [study_options()[key].title for key, value in seen.changes.items() if get_value(now, key) != value]
    remedy = f"You have changed: {', '.join(differing)}." if differing else "You may change all of it below."
    return callout("info" if _fits(seen.after) else "warn", title, reason, remedy)


def _fits(plan: Plan) -> bool:
    return all(method.fit != "no" for method in plan.arms)


def _needed(plan: Plan) -> str:
    return size(max(method.expected_bytes for method in plan.arms))
