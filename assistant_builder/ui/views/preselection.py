"""What the planner selected for this machine, and why."""

from __future__ import annotations

from markupsafe import Markup

from assistant_builder.config import StudyConfig
from assistant_builder.planning.advice import TITLES
from assistant_builder.planning.plan import Plan
from assistant_builder.ui.markup import callout
from assistant_builder.ui.options import get_value, study_options
from assistant_builder.ui.preselection import Preselection
from evals.report.wording import size


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
    if seen.advice.method in TITLES:
        if len(seen.after.config.arms) > 1:
            reason += f" Recommended of the two arms: {TITLES[seen.advice.method]}. {seen.advice.why}"
        if not _fits(seen.after) and seen.after.qlora.fit != "no":
            reason += " QLoRA alone fits: choose it under Arms, among all settings."
    differing = [study_options()[key].title for key, value in seen.changes.items() if get_value(now, key) != value]
    remedy = f"You have changed: {', '.join(differing)}." if differing else "You may change all of it below."
    return callout("info" if _fits(seen.after) else "warn", title, reason, remedy)


def _fits(plan: Plan) -> bool:
    return all(method.fit != "no" for method in plan.arms)


def _needed(plan: Plan) -> str:
    return size(max(method.expected_bytes for method in plan.arms))
