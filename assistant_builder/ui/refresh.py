"""Parts of the page that follow a study: each says when it must be drawn anew, and draws itself from files.

The page holds no job. When something has changed (see :mod:`assistant_builder.ui.refresh`), all sections are asked; those
whose mark is unchanged are left alone, so that nothing flickers and what the user opened stays open.

How a window learns that something changed: it asks every second for one short text, and draws where that differs.

An event of gradio a second, with all components among its outputs, would cost a fifth of a core on either side as long
as a page is open.

What the browser keeps for the page: where, and under which key it is encrypted.

Gradio draws both at random at every start unless it is given them, and then nothing kept survives a restart.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.blocks import Block
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.study import Study, home
from assistant_builder.ui.html import toast
from assistant_builder.ui.study_snapshot import Snapshot, study_stamp, take_snapshot

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class StudyView:
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
class LiveRegion:
    """One part of the page.

    Attributes:
        key: Its name.
        outputs: The components it sets.
        mark: A text that changes when it must be drawn anew.
        draw: Values for ``outputs``, in order.
    """

    key: str
    outputs: Sequence[Block]
    mark: Callable[[StudyView], str]
    draw: Callable[[StudyView], Sequence[Any]]


@dataclass(frozen=True)
class Page:
    """The page, built.

    Attributes:
        demo: Its components.
        sections: Its parts that follow a study.
    """

    demo: gr.Blocks
    sections: Sequence[LiveRegion]


@dataclass(frozen=True)
class RenderedVersions:
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


def marks_of(sections: Sequence[LiveRegion], look: StudyView) -> RenderedVersions:
    """What a window would show if it were drawn now.

    Args:
        sections: The parts of the page.
        look: A look at the chosen study.
    """
    parts = {section.key: _shortened(section.mark(look)) for section in sections}
    return RenderedVersions(_shortened(json.dumps([look.name, parts])), parts)


def refresh(sections: Sequence[LiveRegion], name: str | None, drawn: str) -> list[Any]:
    """Draw what has changed.

    Args:
        sections: The parts of the page.
        name: The chosen study.
        drawn: :class:`Marks` of the last drawing in this window, as JSON; empty where nothing was drawn yet.

    Returns:
        The new marks, likewise, then values for all outputs in order, unchanged ones skipped.
    """
    look = StudyView(name)
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


def _draw(section: LiveRegion, look: StudyView) -> Sequence[Any]:
    """Draw one part; a file of another version, say, must not take the rest of the page with it."""
    try:
        return section.draw(look)
    except Exception as error:
        _log.exception("the page cannot draw %s of study %s", section.key, look.name)
        gr.Warning(toast(f"{section.key} cannot be shown: {error!r}", "The terminal that runs the page says more"))
        return [gr.skip()] * len(section.outputs)


def user_facing_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The edge of the page: an error becomes a message with its remedy, never a bare traceback.

    Args:
        function: An event handler.
    """

    @functools.wraps(function)
    def handler(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (AssistantBuilderError, OSError, MemoryError) as error:
            said = translate_error(error)
            raise gr.Error(toast(said.what, said.remedy), print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            _log.exception("the page failed in %s", function.__name__)
            raise gr.Error(
                toast(f"the page failed: {error!r}", "The terminal that runs the page says more"), print_exception=False
            ) from error

    return handler


PATH = "/pulse"
FOLLOW_ID = "ab-follow"
_SCRIPT = (Path(__file__).parent / "scripts" / "pulse.js").read_text(encoding="utf-8")
ASK_EVERY_SECOND = _SCRIPT.replace("PATH", PATH).replace("FOLLOW_ID", FOLLOW_ID)
"""JavaScript that takes the chosen study's name once the page has arrived, and asks from then on."""
REMEMBER_DRAWN = "(marks) => { window.abDrawn = marks ? JSON.parse(marks).whole : null; }"
"""JavaScript that takes the marks of what was drawn."""


def pulse_route(sections: Sequence[LiveRegion]) -> Callable[[Request], Response]:
    """What answers :data:`PATH`: :attr:`Marks.whole` of the study that the query names; of the home screen without one.

    Args:
        sections: The parts of the page.
    """

    def pulse(request: Request) -> Response:
        return PlainTextResponse(marks_of(sections, StudyView(request.query_params.get("study"))).whole)

    return pulse


def browser_state(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser keeps across reloads and restarts of the server.

    It is not placed yet: call ``render()`` outside of all tabs, since the browser reads it only where it is shown.

    Args:
        name: What it is; part of the browser's key.
        default: Where the browser has none.
    """
    secret = _secret()
    # Servers with other homes share a browser's storage where they share an address: each has entries of its own.
    place = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return gr.BrowserState(default, storage_key=f"assistant-builder-{name}-{place}", secret=secret, render=False)


def _secret() -> str:
    """The home's secret, made at the first start and readable by its owner alone."""
    path = home() / "browser.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip() or secrets.token_hex(16)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            made = secrets.token_hex(16)
            file.write(made)
        return made
    except OSError:  # a home that cannot be written to: the browser forgets with the next start
        return secrets.token_hex(16)
