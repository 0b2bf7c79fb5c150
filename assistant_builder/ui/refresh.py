"""Redraw the regions of the page whose files have changed, and keep browser state across restarts.

Each :class:`LiveRegion` has a version that is computed from the files of the selected study. A browser window polls one
hash of all versions every second and requests a redraw only when it differs: a gradio event per second would cost a
fifth of a core in the server and in the browser. Unchanged regions are skipped, so opened sections stay open.
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
    """The selected study; its files are read on first access.

    Args:
        name: The study; None if none is selected.
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
        """A text that changes with every change of the study."""
        return study_stamp(self.study) if self.study else f"none:{self.name}"

    @functools.cached_property
    def snapshot(self) -> Snapshot | None:
        """The state of the study; None without a study, or if its files cannot be read (see :attr:`error`)."""
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
    """A part of the page that is redrawn when the study changes.

    Attributes:
        key: Name of the region.
        outputs: The components that it sets.
        mark: Returns the version: a text that changes when the region must be redrawn.
        draw: Returns the values of ``outputs``, in order.
    """

    key: str
    outputs: Sequence[Block]
    mark: Callable[[StudyView], str]
    draw: Callable[[StudyView], Sequence[Any]]


@dataclass(frozen=True)
class Page:
    """The built page.

    Attributes:
        demo: The gradio app.
        sections: The regions that follow a study.
    """

    demo: gr.Blocks
    sections: Sequence[LiveRegion]


def page_versions(sections: Sequence[LiveRegion], look: StudyView) -> tuple[str, dict[str, str]]:
    """One hash of all versions, and a hash of the version of each region by its key."""
    parts = {section.key: _digest(_version(section, look)) for section in sections}
    return _digest(json.dumps([look.name, parts])), parts


def _version(section: LiveRegion, look: StudyView) -> str:
    try:
        return section.mark(look)
    except AssistantBuilderError:  # a damaged file, for example study.yaml
        return f"damaged:{look.mark}"


def refresh(sections: Sequence[LiveRegion], name: str | None, drawn: str) -> list[Any]:
    """Redraw the regions that have changed.

    Args:
        sections: The regions of the page.
        name: The selected study.
        drawn: :func:`page_versions` that the browser window shows, as JSON; empty before the first drawing.

    Returns:
        The new versions as JSON, then the values of all outputs in order; unchanged ones are skipped.
    """
    look = StudyView(name)
    seen = _versions_shown(drawn)
    whole, current = page_versions(sections, look)
    values: list[Any] = []
    for section in sections:
        if seen.get(section.key) == current[section.key]:
            values += [gr.skip()] * len(section.outputs)
        else:
            values += _draw(section, look)
    shown = json.dumps({"whole": whole, "parts": current})
    return [gr.skip() if shown == drawn else shown, *values]


def _versions_shown(drawn: str) -> dict[str, Any]:
    """Versions that a browser window shows; empty if its text is invalid, so that everything is redrawn."""
    try:
        parts = json.loads(drawn)["parts"]  # a browser window can be older than the server
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return parts if isinstance(parts, dict) else {}


def _digest(mark: str) -> str:
    return hashlib.blake2b(mark.encode("utf-8", errors="surrogatepass"), digest_size=9).hexdigest()


def _draw(section: LiveRegion, look: StudyView) -> Sequence[Any]:
    """Draw one region; an error in it, such as a file of another version, must not affect the others."""
    try:
        return section.draw(look)
    except Exception as error:
        _log.exception("the page cannot draw %s of study %s", section.key, look.name)
        gr.Warning(toast(f"{section.key} cannot be shown: {error!r}", "The terminal that runs the page shows more"))
        return [gr.skip()] * len(section.outputs)


def user_facing_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate an event handler so that an error is shown as a message with its remedy."""

    @functools.wraps(function)
    def handler(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (AssistantBuilderError, OSError, MemoryError) as error:
            translated = translate_error(error)
            raise gr.Error(toast(translated.what, translated.remedy), print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            _log.exception("the page failed in %s", function.__name__)
            text = toast(f"the page failed: {error!r}", "The terminal that runs the page shows more")
            raise gr.Error(text, print_exception=False) from error

    return handler


PATH = "/pulse"
REFRESH_BUTTON_ID = "ab-follow"
_SCRIPT = (Path(__file__).parent / "scripts" / "pulse.js").read_text(encoding="utf-8")
POLL_SCRIPT = _SCRIPT.replace("PATH", PATH).replace("FOLLOW_ID", REFRESH_BUTTON_ID)
"""JavaScript that receives the name of the selected study after page load, and polls from then on."""
STORE_VERSION_SCRIPT = "(versions) => { window.abDrawn = versions ? JSON.parse(versions).whole : null; }"
"""JavaScript that receives the JSON of :func:`refresh`."""


def pulse_route(sections: Sequence[LiveRegion]) -> Callable[[Request], Response]:
    """The handler of :data:`PATH`: the hash of all versions for the study in the query, or for the home screen."""

    def pulse(request: Request) -> Response:
        return PlainTextResponse(page_versions(sections, StudyView(request.query_params.get("study")))[0])

    return pulse


def browser_state(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser stores across reloads and restarts of the server.

    Storage key and secret are fixed, because gradio would choose both at random at every start. Call ``render()``
    outside of all tabs: the browser reads the value only from a component that is shown.

    Args:
        name: Name of the value; part of the storage key.
        default: Value if the browser has none.
    """
    secret = _browser_key()
    # Servers with different homes can share an address and with it the browser's storage: the key separates them.
    place = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return gr.BrowserState(default, storage_key=f"assistant-builder-{name}-{place}", secret=secret, render=False)


def _browser_key() -> str:
    """The secret of this home, created at the first start and readable only by its owner."""
    path = home() / "browser.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip() or secrets.token_hex(16)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            key = secrets.token_hex(16)
            file.write(key)
        return key
    except OSError:  # the home is not writable: the stored values are lost at the next start
        return secrets.token_hex(16)
