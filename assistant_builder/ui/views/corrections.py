"""The list of corrected answers, and what becomes of them in a new study."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from markupsafe import Markup

from assistant_builder.chat.corrections import Correction, Plan
from assistant_builder.ui.markup import empty, join
from evals.report.wording import plural


def corrections_list(corrections: Sequence[Correction], heldout: Collection[int]) -> Markup:
    """Every correction with its question, and a button that removes it.

    Args:
        corrections: Oldest first.
        heldout: Places of those whose question stands in the held-out set.
    """
    if not corrections:
        return empty("No corrections yet", "“Correct” under an answer opens it here: write what should have been said, "
                     "and train a new study on it.")
    return Markup('<ol class="ab-corrections">{}</ol>').format(
        join(_entry(place, found, place in heldout) for place, found in enumerate(corrections)))


def _entry(place: int, found: Correction, heldout: bool) -> Markup:
    mark = Markup('<span class="ab-badge ab-lost">stands in the held-out set</span>') if heldout else Markup("")
    wrong = Markup('<p class="ab-wrong" dir="auto"><s>{}</s></p>').format(found.wrong) if found.wrong else Markup("")
    return Markup(
        '<li><b dir="auto">{}</b> {}{}<p dir="auto">{}</p><button type="button" class="ab-tool" data-action="remove" '
        'data-turn="{}" data-side="" aria-label="Remove correction {}">Remove</button></li>'
    ).format(found.question, mark, wrong, found.answer, place, place + 1)


def retrained_note(name: str, plan: Plan, old: str) -> str:
    """What the new study is made of, and how the two are compared."""
    parts = [f"{name} trains on {plural(len(plan.trained), 'correction')} more."]
    if plan.replaced:
        parts.append(f"{plural(len(plan.replaced), 'answer')} to the same questions replaced.")
    if plan.dropped:
        parts.append(f"{plural(len(plan.dropped), 'held-out question')} taken out of the test, since a correction "
                     "gives them away; the others are those of the old study.")
    if plan.left_out:
        parts.append(f"{plural(len(plan.left_out), 'correction')} left out of training, since the test asks the same.")
    return " ".join([*parts, f"When it is done, compare it with {old} on the Evaluate tab, or with "
                             f"'assistant-builder compare {old} {name}'."])
