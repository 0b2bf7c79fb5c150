"""The Plan tab: which method fits which machine, part by part, with time and cost, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.planning.advice import advise
from assistant_builder.planning.hardware import CARDS, Machine, parse_memory, this_machine
from assistant_builder.planning.memory_check import measured_seconds
from assistant_builder.planning.plan import Plan
from assistant_builder.planning.planner import plan_study
from assistant_builder.study import Study
from assistant_builder.ui.html import Markup, error_callout
from assistant_builder.ui.plan.view import plan_figure, plan_panel, verdict
from assistant_builder.ui.refresh import LiveRegion, StudyView
from assistant_builder.ui.study_snapshot import needs_study, stamp
from assistant_builder.ui.train.preflight import DataEstimate, lengths_of, estimate_data

HERE = "This computer"


class PlanTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study("A plan needs a study with its question–answer file."))
        with gr.Column(visible=False, elem_id="ab-plan") as self.body:
            with gr.Group(elem_classes="ab-group", elem_id="ab-plan-machine"), gr.Row():
                self.machine = gr.Dropdown(
                    [HERE, *CARDS], value=HERE, label="Machine", info="Where the training would run.",
                    elem_id="ab-plan-card", min_width=190,
                )
                self.memory = gr.Textbox(
                    label="Memory", info="Empty: what is free there. Else like 24GB.", placeholder="as it is",
                    elem_id="ab-plan-memory", min_width=190,
                )
                self.price = gr.Textbox(
                    label="Price of an hour", info="Empty: the list price. In any currency.", placeholder="list price",
                    elem_id="ab-plan-price", min_width=190,
                )
                self.pairs = gr.Textbox(
                    label="Training pairs", info="Empty: those of the study.", placeholder="as in the study",
                    elem_id="ab-plan-pairs", min_width=190,
                )
            self.verdict = gr.HTML(elem_id="ab-plan-verdict")
            self.chart = gr.Plot(show_label=False, visible=False, elem_id="ab-plan-chart", elem_classes="ab-card")
            self.panel = gr.HTML(elem_id="ab-plan-panel")

    @property
    def _choices(self) -> list[Any]:
        return [self.machine, self.memory, self.price, self.pairs]

    @property
    def _shown(self) -> list[Any]:
        return [self.verdict, self.chart, self.panel]

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("plan-body", [self.empty, self.body], lambda look: str(look.name), self._draw_body),
            LiveRegion("plan", [*self._choices, *self._shown], _mark, self._draw),
        ]

    def _draw_body(self, look: StudyView) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    def _draw(self, look: StudyView) -> Sequence[Any]:
        if look.study is None:
            return [HERE, "", "", "", "", gr.update(visible=False), ""]
        return [HERE, "", "", "", *_drawn(look.study, HERE, "", "", "")]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs.
        """
        gr.on(
            [self.machine.input, self.memory.submit, self.memory.blur, self.price.submit, self.price.blur,
             self.pairs.submit, self.pairs.blur],
            self._changed, [picker, *self._choices], self._shown, show_progress="hidden", trigger_mode="always_last",
            api_visibility="private",
        )

    def _changed(self, name: str | None, machine: str, memory: str, price: str, pairs: str) -> list[Any]:
        if not name:
            return [gr.skip()] * 3
        try:
            return _drawn(Study.open(name), machine, memory, price, pairs)
        except AssistantBuilderError as error:
            return [error_callout(error.to_record()), gr.update(visible=False), ""]


def _mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    folder = look.study.folder
    trained = (look.study.arm_folder(arm) / "summary.json" for arm in look.study.config.arms)
    return f"{look.name}:{stamp([folder / 'study.yaml', folder / 'data' / 'split.json', *trained])}"


def _drawn(study: Study, machine: str, memory: str, price: str, pairs: str) -> list[Any]:
    try:
        plan = study_plan(study, machine, memory, price, pairs)
        return [verdict(plan, advise(plan)), gr.update(value=plan_figure(plan), visible=True), plan_panel(plan)]
    except AssistantBuilderError as error:
        return [error_callout(error.to_record()), gr.update(value=None, visible=False), Markup("")]


def study_plan(study: Study, machine: str = HERE, memory: str = "", price: str = "", pairs: str = "") -> Plan:
    """The plan of a study as it stands, on a machine that the user names.

    Args:
        study: The study.
        machine: :data:`HERE` or a card of the catalog.
        memory: Another amount of memory, as in ``24GB``; empty: what there is.
        price: Another price of an hour; empty: the study's, else the list price.
        pairs: Another number of training pairs; empty: the study's.

    Raises:
        AssistantBuilderError: A choice does not fit, or the model cannot be planned.
    """
    config = study.config
    where: Machine = CARDS.get(machine) or this_machine()
    if memory.strip():
        where = where.with_memory(parse_memory(memory))
    if price.strip():
        config = config.with_changes({"eval.price_per_hour": price.strip()})
    found = estimate_data(study, config.data)
    known, lengths = 0, None
    if isinstance(found, DataEstimate):
        known = found.train
        lengths = lengths_of(found, config)
    plan = plan_study(config, _count(pairs) or known, lengths, where)
    if not where.here or _count(pairs) or not isinstance(found, DataEstimate):
        return plan
    told = {arm: measured_seconds(study.arm_folder(arm)) for arm in config.arms}
    return replace(plan, measured={arm: seconds for arm, seconds in told.items() if seconds is not None})


def _count(text: str) -> int:
    """A number of pairs as people write it (``10,000``), 0 for none.

    Raises:
        ConfigError: It is no whole number.
    """
    plain = text.strip().replace(",", "").replace("_", "").replace(" ", "")
    if plain and not plain.isdecimal():
        raise ConfigError(f"{text.strip()!r} is no number of pairs", remedy="Write it like 10000, or leave it empty")
    return int(plain or 0)
