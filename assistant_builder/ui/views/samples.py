"""What both assistants answer to a few validation questions as they train, beside the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assistant_builder.ui.markup import arm_chip, card, fold, join
from assistant_builder.ui.snapshots import ArmSnapshot

_EXPLANATION = (
    "Validation questions, never held-out ones, answered at every validation. They only show how training gets on: "
    "what decides is the evaluation."
)


def samples_card(arms: Mapping[str, ArmSnapshot]) -> Markup:
    """The answers of both arms over the steps, the latest first; empty until there is one.

    Args:
        arms: Arm → its training so far.
    """
    asked: dict[int, dict[str, Any]] = {}
    answers: dict[int, dict[int, dict[str, str]]] = {}
    for arm, seen in arms.items():
        for event in seen.samples:
            asked.setdefault(event["row"], event)
            answers.setdefault(event["row"], {}).setdefault(event["step"], {})[arm] = event["answer"]
    if not asked:
        return Markup("")
    folds = [
        fold(_title(event["question"]), _question(event, answers[row], list(arms)), opened=place == 0)
        for place, (row, event) in enumerate(asked.items())
    ]
    return card("Sample answers", Markup('<p class="ab-ready-note">{}</p>').format(_EXPLANATION), *folds)


def _title(question: str) -> Markup:
    return Markup('<bdi dir="auto">{}</bdi>').format(question)


def _question(event: Mapping[str, Any], by_step: Mapping[int, Mapping[str, str]], arms: list[str]) -> Markup:
    reference = Markup('<p class="ab-sample-ref"><b>Reference</b> <bdi dir="auto">{}</bdi></p>').format(
        event["reference"]
    )
    return join([reference, *(_step(step, by_step[step], arms) for step in sorted(by_step, reverse=True))])


def _step(step: int, answers: Mapping[str, str], arms: list[str]) -> Markup:
    cells = join(
        Markup('<div class="ab-sample ab-arm-{}">{}<p dir="auto">{}</p></div>').format(
            arm, arm_chip(arm), answers[arm] or Markup("<i>(nothing)</i>")
        )
        if arm in answers else
        Markup('<div class="ab-sample ab-arm-{}">{}<p class="ab-none">not there yet</p></div>').format(
            arm, arm_chip(arm)
        )
        for arm in arms
    )
    return Markup('<h4>After step {}</h4><div class="ab-samples">{}</div>').format(step, cells)
