"""The tabs of a study on the page: the registry, and what the page needs from a tab.

A tab is a class whose constructor places its components, registered once in :data:`TABS`. The page opens it, redraws it
when the study's files change and adds the button that leads to it. This module imports neither gradio nor settings, so
that a module which registers a tab is cheap to import in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from assistant_builder.i18n import t
from assistant_builder.registry import Registry

if TYPE_CHECKING:
    import gradio as gr

    from assistant_builder.chat.client import WorkerPool
    from assistant_builder.ui.refresh import LiveRegion, StudyView


class TabContent(Protocol):
    """The components of a tab."""

    def sections(self) -> list[LiveRegion]:
        """The parts of the tab that are redrawn when the study changes."""

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the events of the components.

        Args:
            picker: Its value is the name of the selected study.
            tabs: All tabs, to select another one.
        """


def nothing_done(view: StudyView) -> bool:
    """Whether the work of a tab that has none is done: never."""
    return False


def has_study(view: StudyView) -> bool:
    """Whether a study is selected and can be opened."""
    return view.study is not None


@dataclass(frozen=True)
class Tab:
    """One tab of a study.

    Attributes:
        name: Key in the address of the page (``?tab=``) and in the ids of its elements.
        build: Called inside the open ``gr.Tab``; places the components. The pool starts the processes that load models
            for answers.
        ready: Whether the tab can be opened for a study.
        label: Title; empty: the name with a capital.
        done: Whether the work of the tab is done, which its title then shows with a tick.
        optional: Whether the button of the tab before it leads past it.
    """

    name: str
    build: Callable[[WorkerPool], TabContent]
    ready: Callable[[StudyView], bool] = has_study
    label: str = ""
    done: Callable[[StudyView], bool] = nothing_done
    optional: bool = False

    @property
    def title(self) -> str:
        """Title of the tab in the current language."""
        return t(self.label) if self.label else self.name.capitalize()

    def shown_title(self, view: StudyView) -> str:
        """Title of the tab for a study, with a tick if its work is done."""
        return f"✓ {self.title}" if self.done(view) else self.title


TABS: Registry[Tab] = Registry(
    "page tab",
    builtin=[
        f"assistant_builder.ui.app:{name}_TAB"
        for name in ("DATA", "PLAN", "TRAIN", "EVALUATE", "CHAT", "REPORT", "EXPORT", "INBOX")
    ],
)
"""Every tab by its name, in the order in which a study goes through them."""
