"""Parts of the page that follow a study: each says when it must be drawn anew, and draws itself from files.

The page holds no job. When something has changed (see :mod:`assistant_builder.ui.pulse`), all sections are asked; those
whose mark is unchanged are left alone, so that nothing flickers and what the user opened stays open.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.blocks import Block

from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.mishaps import explained
from assistant_builder.study import Study
from assistant_builder.ui.markup import toast
from assistant_builder.ui.snapshots import Snapshot, study_stamp, take_snapshot

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Look:
    """A look at the chosen study; its files are read when someone asks.

    Args:
        name: The study, or None where none is chosen.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.error: dict[str, Any] | None = None
        self.study: Study | None = None
        try:
            self.study = Study.open(name) if name else None
        except StudyError as error:
            self.error = error.to_record()

    @functools.cached_property
    def mark(self) -> str:
        """Changes whenever anything about the study does."""
        return study_stamp(self.study) if self.study else f"none:{self.name}"

    @functools.cached_property
    def snapshot(self) -> Snapshot | None:
        """The study's state; None without a study, or when its files cannot be read (see :attr:`error`)."""
        if self.study is None:
            return None
        try:
            return take_snapshot(self.study)
        except AssistantBuilderError as error:
            self.error = error.to_record()
        except (KeyError, TypeError, ValueError, OSError) as error:
            self.error = StudyError(
                f"its files are damaged ({error!r})", where=str(self.study.folder),
                remedy="Run it again with --redo, or remove its folder",
            ).to_record()
        return None


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        key: Its name.
        outputs: The components it sets.
        mark: A text that changes when it must be drawn anew.
        draw: Values for ``outputs``, in order.
    """

    key: str
    outputs: Sequence[Block]
    mark: Callable[[Look], str]
    draw: Callable[[Look], Sequence[Any]]


@dataclass(frozen=True)
class Page:
    """The page, built.

    Attributes:
        demo: Its components.
        sections: Its parts that follow a study.
    """

    demo: gr.Blocks
    sections: Sequence[Section]


@dataclass(frozen=True)
class Marks:
    """What a window shows of a study.

    Attributes:
        whole: A text that changes whenever one of the parts does.
        parts: Section → its mark, shortened.
    """

    whole: str
    parts: dict[str, str]

    def to_json(self) -> str:
        """The marks as a window keeps them."""
        return json.dumps({"whole": self.whole, "parts": self.parts})


def marks_of(sections: Sequence[Section], look: Look) -> Marks:
    """What a window would show if it were drawn now.

    Args:
        sections: The parts of the page.
        look: A look at the chosen study.
    """
    parts = {section.key: _shortened(section.mark(look)) for section in sections}
    return Marks(_shortened(json.dumps([look.name, parts])), parts)


def refresh(sections: Sequence[Section], name: str | None, drawn: str) -> list[Any]:
    """Draw what has changed.

    Args:
        sections: The parts of the page.
        name: The chosen study.
        drawn: :class:`Marks` of the last drawing in this window, as JSON; empty where nothing was drawn yet.

    Returns:
        The new marks, likewise, then values for all outputs in order, unchanged ones skipped.
    """
    look = Look(name)
    seen = _parts_of(drawn)
    marks = marks_of(sections, look)
    values: list[Any] = []
    for section in sections:
        if seen.get(section.key) == marks.parts[section.key]:
            values += [gr.skip()] * len(section.outputs)
        else:
            values += _draw(section, look)
    shown = marks.to_json()
    return [gr.skip() if shown == drawn else shown, *values]


def _parts_of(drawn: str) -> dict[str, Any]:
    """Marks of the parts that a window shows; none where it sends something else, so that all is drawn."""
    try:
        parts = json.loads(drawn)["parts"]  # a window can be older than the server
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return parts if isinstance(parts, dict) else {}


def _shortened(mark: str) -> str:
    return hashlib.blake2b(mark.encode("utf-8", errors="surrogatepass"), digest_size=9).hexdigest()


def _draw(section: Section, look: Look) -> Sequence[Any]:
    """Draw one part; a file of another version, say, must not take the rest of the page with it."""
    try:
        return section.draw(look)
    except Exception as error:
        _log.exception("the page cannot draw %s of study %s", section.key, look.name)
        gr.Warning(toast(f"{section.key} cannot be shown: {error!r}", "The terminal that runs the page says more"))
        return [gr.skip()] * len(section.outputs)


def told(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The edge of the page: an error becomes a message with its remedy, never a bare traceback.

    Args:
        function: An event handler.
    """

    @functools.wraps(function)
    def handler(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (AssistantBuilderError, OSError, MemoryError) as error:
            said = explained(error)
            raise gr.Error(toast(said.what, said.remedy), print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            _log.exception("the page failed in %s", function.__name__)
            raise gr.Error(
                toast(f"the page failed: {error!r}", "The terminal that runs the page says more"), print_exception=False
            ) from error

    return handler
