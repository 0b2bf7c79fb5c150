"""Recommended settings for this machine: the planner's selection that makes the arms fit into memory, and its reason.

No gradio, no model.
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
from assistant_builder.ui.train.preflight import DataEstimate, estimate_data, make_plan
from evals.report.format import size

PLANNED_KEYS = ("train.micro_batch_size", "train.gradient_checkpointing", "train.max_length")
"""Settings that determine the training memory and that the planner may select; the user may change them."""


@dataclass(frozen=True)
class RecommendedSettings:
    """The planner's settings for a study on this machine.

    Attributes:
        config: The settings with the changes applied.
        before: The plan without the changes.
        after: The plan of ``config``.
        changes: Dotted key → value of each changed setting.
        advice: The method that the plan recommends.
    """

    config: StudyConfig
    before: Plan
    after: Plan
    changes: Mapping[str, Any]
    advice: Advice


def recommend_settings(study: Study, config: StudyConfig | None = None) -> RecommendedSettings | None:
    """Change the settings of :data:`PLANNED_KEYS` until all arms fit, or at least the 4-bit arm.

    Args:
        study: The study, which holds the initial values of :data:`PLANNED_KEYS`.
        config: The other settings on the form; by default the study's.

    Returns:
        None if the model's architecture is not available here, or the settings are invalid.
    """
    own = study.config
    try:
        start = (config or own).with_changes({key: get_value(own, key) for key in PLANNED_KEYS})
        data = estimate_data(study, start.data)
        ref = resolve(start.model.base, trust_remote_code=allows_code(start.model))
        plan = make_plan(ref, start, data if isinstance(data, DataEstimate) else None)
        if plan is None:
            return None
        arms = start.arms
        changes = cheapest_saving(plan, *arms) or (cheapest_saving(plan, QLORA.name) if QLORA.name in arms else {})
        after = plan.with_changes(changes)
    except AssistantBuilderError:
        return None
    return RecommendedSettings(after.config, plan, after, changes, advise(after))


def not_started(study: Study) -> bool:
    """Whether no step of a study has started, so that its settings can still be selected."""
    return study.run_record() is None and all(study.step(step).state == "queued" for step in study.steps)


def recommendation_note(selection: RecommendedSettings, now: StudyConfig) -> Markup:
    """The selected settings with the reason, and those that the user has changed since.

    Args:
        selection: The selection.
        now: The settings on the form.
    """
    machine = selection.after.machine
    memory = f"{_needed(selection.after)} of the {size(selection.after.memory_bytes)} that are free on {machine.name}"
    if selection.changes:
        title = f"Settings selected for {machine.name}"
        chosen = ", ".join(f"{study_options()[key].title} {value} instead of {get_value(selection.before.config, key)}"
                           for key, value in selection.changes.items())
        reason = f"{chosen}. Training then needs {memory}; before the change it needed {_needed(selection.before)}."
    else:
        title = "The settings fit into memory" if _fits(selection.after) else "The study does not fit into memory"
        again = "Activations are recomputed to save memory. " if selection.after.lora.checkpointing else ""
        reason = f"{again}Training needs {memory}."
    if selection.advice.method in ARMS:
        if selection.after.config.compares:
            reason += f" Recommended arm: {ARMS[selection.advice.method].short}. {selection.advice.why}"
        if not _fits(selection.after) and selection.after.qlora.fit != "no":
            reason += " QLoRA alone fits: select it under All settings → Arms."
    differing = [study_options()[key].title for key, value in selection.changes.items() if get_value(now, key) != value]
    remedy = f"You have changed: {', '.join(differing)}." if differing else "You can change these settings below."
    return callout("info" if _fits(selection.after) else "warn", title, reason, remedy)


def _fits(plan: Plan) -> bool:
    return all(method.fit != "no" for method in plan.arms)


def _needed(plan: Plan) -> str:
    return size(max(method.expected_bytes for method in plan.arms))
