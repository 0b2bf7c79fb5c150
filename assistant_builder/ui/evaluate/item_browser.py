"""Browser of held-out items: select two cells, filter, search, and move through the pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from assistant_builder.i18n import N_, t
from assistant_builder.ui.evaluate.item_filters import (
    ItemFilter,
    ItemSet,
    Show,
    count_by_choice,
    filter_items,
)
from assistant_builder.ui.evaluate.item_view import (
    items_view,
    pager_text,
    pages,
)
from assistant_builder.ui.refresh import QUIET
from evals.report.number_format import count

SHOW_TITLES: dict[Show, str] = {
    "all": N_("All items"),
    "different": N_("Answers that differ"),
    "lost": N_("Correct → wrong"),
    "gained": N_("Wrong → correct"),
    "declined": N_("Declined by one or both"),
    "unanswerable": N_("Should be declined"),
}


class ItemBrowser:
    """Components of a browser; the caller has opened the block that contains them.

    ``load`` loads the items for the value of the component that selects a study or a pair of studies.
    """

    def __init__(self, load: Callable[[Any], ItemSet | None], elem_id: str) -> None:
        self._load, self._id = load, elem_id
        self.page = gr.State(1)
        with gr.Group(elem_classes="ab-group ab-grid ab-browse"):
            cells: dict[str, Any] = {"interactive": True, "min_width": 180}
            self.first = gr.Dropdown([], label=t("Compare"), **cells)
            self.second = gr.Dropdown([], label=t("with"), **cells)
            self.show = gr.Dropdown([], label=t("Show"), **cells, filterable=False)
            self.search = gr.Textbox(
                label=t("Search"),
                placeholder=t("words in question, reference or answers"),
                elem_classes="ab-whole",
                elem_id=f"{elem_id}-search",
            )
        self.list = gr.HTML(elem_id=elem_id)
        with gr.Row(elem_classes="ab-pager"):
            self.back = gr.Button(
                t("← Previous"), size="sm", min_width=110, scale=0, elem_id=f"{elem_id}-back"
            )
            self.place = gr.HTML(elem_classes="ab-place")
            self.next = gr.Button(
                t("Next →"), size="sm", min_width=110, scale=0, elem_id=f"{elem_id}-next"
            )

    @property
    def outputs(self) -> list[Any]:
        """Components set by :meth:`open_values`."""
        return [self.first, self.second, *self._page_outputs]

    @property
    def _page_outputs(self) -> list[Any]:
        return [self.show, self.page, self.list, self.back, self.place, self.next]

    def open_values(self, items: ItemSet | None, show: Show = "all") -> Sequence[Any]:
        """Values for :attr:`outputs` that show the first page of other items."""
        if items is None:
            return [gr.skip()] * 3 + [1, "", gr.skip(), "", gr.skip()]
        first, second = items.pair
        cells = [(title, cell) for cell, title in items.cells.items()]
        return [
            gr.update(choices=cells, value=first),
            gr.update(choices=cells, value=second),
            *self._page_values(items, ItemFilter(first, second, show), 1),
        ]

    def wire(self, key: gr.components.Component) -> None:
        """Connect the components; the value of ``key`` is passed to the loader."""
        quiet = {**QUIET, "queue": False}
        choices = [self.first, self.second, self.show]
        inputs = [key, *choices, self.search]

        def handler(by: int) -> Callable[..., Sequence[Any]]:
            def turn(key: Any, *shown: Any) -> Sequence[Any]:
                *rest, page = shown
                return self._show_page(key, *rest, page + by)

            return turn

        gr.on(
            [*(part.input for part in choices), self.search.change],
            lambda key, *shown: self._show_page(key, *shown, 1),
            inputs,
            self._page_outputs,
            trigger_mode="always_last",
            **quiet,
        )
        top = f"() => document.getElementById('{self._id}').scrollIntoView({{block: 'start'}})"
        for button, by in ((self.back, -1), (self.next, 1)):
            button.click(handler(by), [*inputs, self.page], self._page_outputs, **quiet).then(
                None, None, None, js=top
            )

    def _show_page(self, key: Any, *shown: Any) -> Sequence[Any]:
        first, second, show, search, page = shown
        items = self._load(key)
        if items is None or not {first, second} <= items.cells.keys():
            return [gr.skip()] * len(self._page_outputs)
        return self._page_values(items, ItemFilter(first, second, show, search or ""), page)

    def _page_values(self, items: ItemSet, query: ItemFilter, page: int) -> list[Any]:
        rows = filter_items(items, query)
        last = pages(len(rows))
        page = min(max(page, 1), last)
        counts = count_by_choice(items, query.first, query.second)
        counted = [
            (f"{t(title)} ({count(counts[show])})", show) for show, title in SHOW_TITLES.items()
        ]
        return [
            gr.update(choices=counted, value=query.show),
            page,
            items_view(items, rows, query, page),
            gr.update(interactive=page > 1),
            pager_text(len(rows), page),
            gr.update(interactive=page < last),
        ]
