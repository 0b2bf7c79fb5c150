"""The Plan tab: whether each method fits a machine, with memory, time and cost, before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import N_, m, t
from assistant_builder.planning.advice import advise
from assistant_builder.planning.hardware import CARDS, Machine, parse_memory, this_machine
from assistant_builder.planning.memory_check import measured_seconds
from assistant_builder.planning.plan import Plan, plan_study
from assistant_builder.study import Study
from assistant_builder.ui.html import error_callout
from assistant_builder.ui.plan.view import plan_figure, plan_panel, verdict
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, Values, body_region
from assistant_builder.ui.study_snapshot import needs_study
from assistant_builder.ui.train.preflight import DataEstimate, estimate_data, lengths_of

THIS_COMPUTER = N_("This computer")


class PlanTab:
    """Components of the tab, created in the open ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(
            needs_study(t("A plan needs a project with its question–answer file."))
        )
        with gr.Column(visible=False, elem_id="ab-plan") as self.body:
            with gr.Group(elem_classes="ab-group", elem_id="ab-plan-machine"), gr.Row():
                self.machine = gr.Dropdown(
                    [(t(THIS_COMPUTER), THIS_COMPUTER), *CARDS],
                    value=THIS_COMPUTER,
                    label=t("Machine"),
                    elem_id="ab-plan-card",
                    info=t("The machine that runs the training."),
                    min_width=190,
                )
                self.memory, self.price, self.pairs = (
                    gr.Textbox(
                        label=title,
                        info=info,
                        placeholder=empty,
                        elem_id=f"ab-plan-{key}",
                        min_width=190,
                    )
                    for key, title, info, empty in (
                        (
                            "memory",
                            t("Memory"),
                            t("Empty: its free memory. Example: 24GB."),
                            t("free memory"),
                        ),
                        (
                            "price",
                            t("Price of an hour"),
                            t("Empty: the list price. Any currency."),
                            t("list price"),
                        ),
                        (
                            "pairs",
                            t("Training pairs"),
                            t("Empty: the pairs of the project."),
                            t("as in the project"),
                        ),
                    )
                )
            self.verdict = gr.HTML(elem_id="ab-plan-verdict")
            self.chart = gr.Plot(
                show_label=False, visible=False, elem_id="ab-plan-chart", elem_classes="ab-card"
            )
            self.panel = gr.HTML(elem_id="ab-plan-panel")

    @property
    def _choices(self) -> list[Any]:
        return [self.machine, self.memory, self.price, self.pairs]

    @property
    def _shown(self) -> list[Any]:
        return [self.verdict, self.chart, self.panel]

    def sections(self) -> list[LiveRegion]:
        """Regions that follow the study."""
        return [
            body_region("plan-body", self.empty, self.body),
            LiveRegion("plan", [*self._choices, *self._shown], _mark, self._draw),
        ]

    def _draw(self, look: StudyView) -> Updates:
        choices = {**dict.fromkeys(self._choices, ""), self.machine: THIS_COMPUTER}
        if look.study is None:
            hidden = {self.verdict: "", self.chart: gr.update(visible=False), self.panel: ""}
            return {**choices, **hidden}
        return {**choices, **self._planned(look.study.name, choices)}

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the events; see :class:`~assistant_builder.ui.tabs.TabContent`."""
        texts = (self.memory, self.price, self.pairs)
        gr.on(
            [self.machine.input, *(event for text in texts for event in (text.submit, text.blur))],
            lambda values: self._planned(values[picker], values),
            {picker, *self._choices},
            self._shown,
            trigger_mode="always_last",
            **QUIET,
        )

    def _planned(self, name: str | None, values: Values) -> Updates:
        if not name:
            return gr.skip()
        try:
            chosen = (values[component] for component in self._choices)
            plan = study_plan(Study.open(name), *chosen)
            return {
                self.verdict: verdict(plan, advise(plan)),
                self.chart: gr.update(value=plan_figure(plan), visible=True),
                self.panel: plan_panel(plan),
            }
        except AssistantBuilderError as error:
            return {
                self.verdict: error_callout(error.to_record()),
                self.chart: gr.update(value=None, visible=False),
                self.panel: "",
            }


def _mark(look: StudyView) -> str:
    trained = sorted(look.study.folder.glob("arms/*/summary.json")) if look.study else []
    return look.stamp("study.yaml", "data/split.json", *trained)


def study_plan(
    study: Study, machine: str = THIS_COMPUTER, memory: str = "", price: str = "", pairs: str = ""
) -> Plan:
    """Plan the training of a study on a machine.

    Args:
        study: The study.
        machine: :data:`THIS_COMPUTER` or a card of the catalog.
        memory: Amount of memory such as ``24GB``; empty: the free memory of the machine.
        price: Price of an hour; empty: that of the study, or the list price.
        pairs: Number of training pairs such as ``10,000``; empty: that of the study.

    Raises:
        AssistantBuilderError: An input is invalid, or the model cannot be planned.
    """
    config = study.config
    where: Machine = CARDS.get(machine) or this_machine()
    if memory.strip():
        where = where.with_memory(parse_memory(memory))
    if price.strip():
        config = config.with_changes({"eval.price_per_hour": price.strip()})
    plain = pairs.strip().replace(",", "").replace("_", "").replace(" ", "")
    if plain and not plain.isdecimal():
        remedy = m("Write it like 10000, or leave it empty")
        raise ConfigError(
            m("{strip!r} is not a number of pairs", strip=pairs.strip()), remedy=remedy
        )
    wanted, found = int(plain or 0), estimate_data(study, config.data)
    if not isinstance(found, DataEstimate):
        return plan_study(config, wanted, None, where)
    plan = plan_study(config, wanted or found.train, lengths_of(found, config), where)
    if not where.is_local or wanted:
        return plan
    measured = {arm: measured_seconds(study.arm_folder(arm)) for arm in config.arms}
    return replace(
        plan, measured={arm: seconds for arm, seconds in measured.items() if seconds is not None}
    )
