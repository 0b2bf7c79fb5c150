"""A browser of held-out items: choose two cells, filter, order, search, turn pages. It wires; views.answers draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import gradio as gr

from assistant_builder.ui.evaluate.item_filters import ItemFilter, ItemSet, Order, Show, amounts, chosen
from assistant_builder.ui.evaluate.view import (
    Marks,
    cell_choices,
    items_view,
    metric_choices,
    pager_text,
    pages,
)
from assistant_builder.ui.refresh import user_facing_errors

Load = Callable[[Any], ItemSet | None]
"""From the value of the component that says what is looked at to the items."""
SHOW_TITLES: dict[Show, str] = {
    "all": "All items",
    "different": "Answers that differ",
    "lost": "Right → wrong",
    "gained": "Wrong → right",
    "declined": "Declined by one or both",
    "unanswerable": "Should be declined",
}
ORDER_TITLES: dict[Order, str] = {
    "file": "As in the file",
    "worst": "Largest loss first",
    "best": "Largest gain first",
}
_MARK_TITLES: dict[Marks, str] = {
    "each other": "the other answer", "the reference": "the reference", "nothing": "nothing (no marks)",
}


class ItemBrowser:
    """Components of a browser; the caller has opened the block that they belong in.

    Args:
        load: Finds the items.
        elem_id: Of the list of items.
    """

    def __init__(self, load: Load, elem_id: str) -> None:
        self._load, self._id = load, elem_id
        self.page = gr.State(1)
        with gr.Group(elem_classes="ab-group ab-grid ab-browse"):
            self.first = gr.Dropdown([], label="Compare", interactive=True, min_width=180)
            self.second = gr.Dropdown([], label="with", interactive=True, min_width=180)
            self.show = gr.Dropdown([], label="Show", interactive=True, filterable=False, min_width=180)
            self.order = gr.Dropdown(
                [(title, key) for key, title in ORDER_TITLES.items()], value="file", label="Order", interactive=True,
                filterable=False, min_width=180,
            )
            self.metric = gr.Dropdown([], label="Loss or gain by", interactive=True, filterable=False, min_width=180)
            self.marks = gr.Dropdown(
                [(title, key) for key, title in _MARK_TITLES.items()], value=get_args(Marks)[0],
                label="Mark what differs from", interactive=True, filterable=False, min_width=180,
            )
            self.search = gr.Textbox(label="Search", placeholder="words of question, reference or answers",
                                     elem_classes="ab-whole", elem_id=f"{elem_id}-search")
        self.list = gr.HTML(elem_id=elem_id)
        with gr.Row(elem_classes="ab-pager"):
            self.back = gr.Button("← Previous", size="sm", min_width=110, scale=0, elem_id=f"{elem_id}-back")
            self.place = gr.HTML(elem_classes="ab-place")
            self.next = gr.Button("Next →", size="sm", min_width=110, scale=0, elem_id=f"{elem_id}-next")

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`opened` sets."""
        return [self.first, self.second, self.metric, *self._drawn]

    @property
    def _drawn(self) -> list[Any]:
        return [self.show, self.page, self.list, self.back, self.place, self.next]

    @property
    def _inputs(self) -> list[Any]:
        return [self.first, self.second, self.show, self.order, self.metric, self.marks, self.search]

    def opened(self, items: ItemSet | None, show: Show = "all") -> Sequence[Any]:
        """Values for :attr:`outputs` when other items are looked at, from their first page on."""
        if items is None:
            return [gr.skip()] * 3 + [gr.skip(), 1, "", gr.skip(), "", gr.skip()]
        first, second = items.pair
        cells, metric = cell_choices(items), items.metrics[0]
        return [
            gr.update(choices=cells, value=first), gr.update(choices=cells, value=second),
            gr.update(choices=metric_choices(items.metrics), value=metric),
            *self._page(items, ItemFilter(first, second, show, metric=metric), "each other", 1),
        ]

    def wire(self, key: gr.components.Component) -> None:
        """Connect the components.

        Args:
            key: Its value says what is looked at.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        inputs = [key, *self._inputs]
        changes = [part.input for part in (self.first, self.second, self.show, self.order, self.metric, self.marks)]
        gr.on([*changes, self.search.change], user_facing_errors(self._changed), inputs, self._drawn, trigger_mode="always_last",
              **quiet)
        top = f"() => document.getElementById('{self._id}').scrollIntoView({{block: 'start'}})"
        for button, by in ((self.back, -1), (self.next, 1)):
            button.click(user_facing_errors(self._turner(by)), [*inputs, self.page], self._drawn, **quiet).then(
                None, None, None, js=top)

    def _changed(self, key: Any, *shown: Any) -> Sequence[Any]:
        return self._turned(key, *shown, 1)

    def _turner(self, by: int) -> Callable[..., Sequence[Any]]:
        def turn(key: Any, *shown: Any) -> Sequence[Any]:
            *rest, page = shown
            return self._turned(key, *rest, page + by)

        return turn

    def _turned(self, key: Any, *shown: Any) -> Sequence[Any]:
        first, second, show, order, metric, marks, search, page = shown
        items = self._load(key)
        if items is None or not {first, second} <= items.cells.keys():
            return [gr.skip()] * len(self._drawn)
        return self._page(items, ItemFilter(first, second, show, order, metric, search or ""), marks, page)

    def _page(self, items: ItemSet, wish: ItemFilter, marks: Marks, page: int) -> list[Any]:
        rows = chosen(items, wish)
        last = pages(len(rows))
        page = min(max(page, 1), last)
        counts = amounts(items, wish.first, wish.second)
        counted = [(f"{title} ({counts[show]:,})", show) for show, title in SHOW_TITLES.items()]
        return [
            gr.update(choices=counted, value=wish.show), page, items_view(items, rows, wish, marks, page),
            gr.update(interactive=page > 1), pager_text(len(rows), page), gr.update(interactive=page < last),
        ]
