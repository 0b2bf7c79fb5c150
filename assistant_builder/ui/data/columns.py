"""The first rows of a data file, with the role of each column in the header of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.data.columns import automatic_roles
from assistant_builder.data.types import COLUMN_ROLES
from assistant_builder.i18n import t, tn
from assistant_builder.ui.data.preview import Inspection
from assistant_builder.ui.html import cut, fragment, heading
from assistant_builder.ui.refresh import Updates
from assistant_builder.ui.settings_form import MAPPING_TITLE, ROLE_TITLES

MAX_COLUMNS = 12
UNUSED = ""


def _choices() -> list[tuple[str, str]]:
    """(title, role) of what a column can be."""
    return [(t("Not used"), UNUSED), *((t(ROLE_TITLES[role]), role) for role in COLUMN_ROLES)]


def shown_columns(names: Sequence[str], roles: Mapping[str, str | None]) -> list[str]:
    """The columns of the table: all in the order of the file, or those with a role and the first ones."""
    used = [name for name in names if name in roles.values()]
    kept = {*used, *[name for name in names if name not in used][: max(0, MAX_COLUMNS - len(used))]}
    return [name for name in names if name in kept][:MAX_COLUMNS]


def choose_roles(
    names: Sequence[str], shown: Sequence[str], values: Sequence[str], latest: int
) -> tuple[dict[str, str], list[int]]:
    """The mapping for the roles that are chosen in the header.

    Args:
        names: All columns of the file.
        shown: Those in the table.
        values: The chosen role of each column of the table.
        latest: Place of the column that was chosen last, which keeps its role if another column has it, too.

    Returns:
        Role → column where it differs from the automatic mapping, as in ``data.columns``; and the places whose role was
        given to another column.
    """
    roles: dict[str, str] = {}
    cleared = []
    for place in sorted(range(len(shown)), key=lambda place: place != latest):
        if values[place] and values[place] in roles:
            cleared.append(place)
        elif values[place]:
            roles[values[place]] = shown[place]
    automatic = automatic_roles(names)
    return {
        role: roles.get(role, "") for role in COLUMN_ROLES if roles.get(role) != automatic.get(role)
    }, cleared


class ColumnHeader:
    """Components of the table."""

    def __init__(self) -> None:
        with (
            gr.Column(visible=False, elem_id="ab-columns") as self.body,
            gr.Group(elem_classes="ab-group"),
        ):
            gr.HTML(heading(t(MAPPING_TITLE)))
            self.note = gr.HTML()
            with gr.Row(elem_classes="ab-columns"):
                self.columns, self.roles, self.cells = [], [], []
                for place in range(MAX_COLUMNS):
                    with gr.Column(visible=False, min_width=150) as column:
                        self.roles.append(
                            gr.Dropdown(
                                _choices(),
                                value=UNUSED,
                                interactive=True,
                                filterable=False,
                                elem_id=f"ab-column-{place + 1}",
                            )
                        )
                        self.cells.append(gr.HTML(elem_classes="ab-column-cells"))
                    self.columns.append(column)

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`updates` sets."""
        return [self.body, self.note, *self.columns, *self.roles, *self.cells]

    def updates(self, seen: Inspection | None) -> Updates:
        """Show the columns of a file; None hides the table."""
        names = shown_columns(seen.columns, seen.roles) if seen else []
        if seen is None or not names:
            return {self.body: gr.update(visible=False)}
        role_of = {name: role for role, name in seen.roles.items()}
        updates: Updates = {
            self.body: gr.update(visible=True),
            self.note: column_note(seen, len(names)),
        }
        for index, column in enumerate(self.columns):
            updates[column] = gr.update(visible=index < len(names))
        for name, role, cell in zip(names, self.roles, self.cells, strict=False):
            updates[role] = gr.update(label=cut(name, 40), value=role_of.get(name) or UNUSED)
            place = seen.columns.index(name)
            updates[cell] = fragment("data.cells", [cut(row[place], 90) for row in seen.peek])
        return updates


def column_note(seen: Inspection, shown: int) -> Markup:
    """The question about guessed columns, or the request to choose them."""
    more = len(seen.columns) - shown
    rest = (
        tn("{count} more column is not shown.", "{count} more columns are not shown.", more)
        if more > 0
        else ""
    )
    return fragment("data.column_note", seen.guessed, seen.findings is not None, rest)
