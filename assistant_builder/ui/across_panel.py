"""The part of the Evaluate tab that sets the study against another one. It wires; views.across draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study, studies_folder
from assistant_builder.ui.interval_figures import interval_figure
from assistant_builder.ui.item_browser import ItemBrowser
from assistant_builder.ui.item_sets import ItemSet, across_items, comparable, made_from
from assistant_builder.ui.markup import callout, empty, error_callout
from assistant_builder.ui.sections import Look, Section
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.across import (
    comparison_panels,
    comparison_tables,
    comparison_view,
    left_out,
    nothing_to_compare,
)
from evals.report.wording import plural

EMPTY = "Here the study is set against another one."


class AcrossPanel:
    """Components of the part; the caller has opened the block that they belong in."""

    def __init__(self) -> None:
        self.pair = gr.State(None)
        self.note = gr.HTML(elem_classes="ab-note")
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_classes="ab-across"):
                self.other = gr.Dropdown([], label="Compare with", interactive=True, elem_id="ab-other", min_width=240)
                self.go = gr.Button("Compare", variant="primary", scale=0, min_width=140, elem_id="ab-compare")
            self.message = gr.HTML(elem_id="ab-comparison")
            with gr.Column(visible=False) as self.result:
                self.plot = gr.Plot(label="This study minus the other, 95 % intervals", elem_classes="ab-figure")
                self.tables = gr.HTML()
                gr.HTML("<h3>Answers that changed</h3>")
                self.browser = ItemBrowser(_pair_items, "ab-across-items")

    def sections(self) -> list[Section]:
        """What follows the study, and the list of the others."""
        return [
            Section("across", [self.note, self.body, self.other], _others_mark, self._draw),
            Section("across-result", [self.pair, self.message, self.result], _own_mark,
                    lambda look: [None, "", gr.update(visible=False)]),
        ]

    def _draw(self, look: Look) -> Sequence[Any]:
        hidden = [gr.update(visible=False), gr.update(choices=[], value=None)]
        if look.study is None:
            return [gr.update(value=empty("No study chosen", EMPTY), visible=True), *hidden]
        state = look.study.step("evaluate").state
        if state != "succeeded":
            said = empty("Not evaluated yet", "A study can be set against another one once it has been evaluated.")
            return [gr.update(value=said, visible=True), *hidden]
        found, parent = comparable(look.study), made_from(look.study)
        others = {name: items for name, items in found.items() if items > 1}
        note = nothing_to_compare(look.study.name, list(found)) if not others else left_out(list(found.keys() - others))
        titles = [(f"{name}  ·  {plural(items, 'item')} in both{'  ·  made from it' if name == parent else ''}", name)
                  for name, items in others.items()]
        return [gr.update(value=note, visible=bool(note)), gr.update(visible=bool(others)),
                gr.update(choices=titles, value=next(iter(others), None))]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
        """
        self.go.click(
            self._compare, [picker, self.other],
            [self.pair, self.message, self.result, self.plot, self.tables, *self.browser.outputs, self.go],
            show_progress="hidden", api_visibility="private",
        )
        self.browser.wire(self.pair)

    def _compare(self, name: str | None, other: str | None) -> Iterator[list[Any]]:
        from evals.across import compare_studies

        rest = [gr.skip()] * (2 + len(self.browser.outputs))
        hidden = gr.update(visible=False)
        if not name or not other:
            yield [None, callout("warn", "Choose a study to compare with"), hidden, *rest, gr.skip()]
            return
        yield [gr.skip(), callout("info", f"Comparing {name} with {other}…", "Item by item, on what both have."),
               hidden, *rest, gr.update(interactive=False)]
        ready = gr.update(interactive=True)
        try:
            a, b = Study.open(other), Study.open(name)
            record, items = compare_studies(a, b), across_items(a, b)
        except AssistantBuilderError as error:
            yield [None, error_callout(error.to_record()), hidden, *rest, ready]
            return
        figure = interval_figure(comparison_panels(record))
        yield [(other, name), comparison_view(record), gr.update(visible=True), figure, comparison_tables(record),
               *self.browser.opened(items, "different"), ready]


def _pair_items(pair: Sequence[str] | None) -> ItemSet | None:
    return across_items(*(Study.open(name) for name in pair)) if pair else None


def _others_mark(look: Look) -> str:
    found = sorted(studies_folder().glob("[!.]*/evals/status.json"))
    return f"{look.name}:{len(found)}:{stamp(found)}"


def _own_mark(look: Look) -> str:
    return f"{look.name}:{stamp([look.study.status_file('evaluate')])}" if look.study else f"none:{look.name}"
