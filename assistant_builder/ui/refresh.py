"""Redraw the regions of the page whose files have changed, and keep browser state across restarts.

Each :class:`LiveRegion` has a version that is computed from the files of the selected study. A browser window polls one
hash of all versions, every second while something changes and less often otherwise, and requests a redraw only when it
differs: a gradio event per second would cost a fifth of a core in the server and in the browser. Unchanged regions are
skipped, so opened sections stay open.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.i18n import language, m, render, t
from assistant_builder.study import Study, home
from assistant_builder.ui.html import pop_up_titles, toast
from assistant_builder.ui.study_snapshot import (
    Snapshot,
    all_trained,
    needs_study,
    picker_label,
    stamp,
    study_stamp,
    take_snapshot,
)
from assistant_builder.web.access import LOCAL

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event that shows no progress."""
Values = Mapping[Any, Any]
"""What an event handler gets: component → value."""
Updates = dict[Any, Any]
"""What an event handler or a region returns: component → value or ``gr.update``; the other components do not change."""
_log = logging.getLogger(__name__)


class StudyView:
    """The study ``name``, or none; its files are read on first access.

    ``local`` says whether the browser is on the computer that runs the page, so that paths of it are of use.
    """

    def __init__(self, name: str | None, *, local: bool = True) -> None:
        self.name, self.local = name, local
        self.error: ErrorRecord | None = None
        self.study: Study | None = None
        try:
            self.study = Study.open(name) if name else None
        except StudyError as error:
            self.error = error.to_record()

    @functools.cached_property
    def served(self) -> Study | None:
        """The study as seen through the approach that it recommends."""
        return self.study and self.study.recommended

    @functools.cached_property
    def mark(self) -> str:
        """A text that changes with every change of the study."""
        return study_stamp(self.study) if self.study else f"none:{self.name}"

    @functools.cached_property
    def trained(self) -> bool:
        """Whether all arms of the study are trained; cheaper than the snapshot."""
        return self.study is not None and all_trained(self.study)

    def stamp(self, *files: Path | str) -> str:
        """The name of the study, and a text that changes with the files; relative paths are in the study's folder."""
        return (
            f"{self.name}:{stamp(self.study.folder / file for file in files) if self.study else ''}"
        )

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
                m("its files are damaged ({error!r})", error=error),
                where=str(self.study.folder),
                remedy=m("{Redo}, or remove its folder"),
            ).to_record()
        return None


@dataclass(frozen=True)
class LiveRegion:
    """A part of the page that is redrawn when the study changes.

    Attributes:
        key: Name of the region.
        outputs: The components that it sets.
        mark: Returns the version: a text that changes when the region must be redrawn.
        draw: Returns the values of ``outputs``: component → value, or all values in order.
    """

    key: str
    outputs: Sequence[Block]
    mark: Callable[[StudyView], str]
    draw: Callable[[StudyView], Mapping[Any, Any] | Sequence[Any]]

    def values(self, view: StudyView) -> list[Any]:
        """The values of ``outputs``, in order; those that :attr:`draw` does not return are skipped."""
        drawn = self.draw(view)
        if isinstance(drawn, Mapping):
            assert drawn.keys() <= set(self.outputs), f"{self.key} sets components of others"
            return [drawn.get(component, gr.skip()) for component in self.outputs]
        return list(drawn)


@dataclass(frozen=True)
class Page:
    """The built page: the gradio app, the regions that follow a study, and a function that builds the app again."""

    demo: gr.Blocks
    sections: Sequence[LiveRegion]
    build: Callable[[], gr.Blocks] | None = None


def body_region(key: str, empty: Block, body: Block) -> LiveRegion:
    """The region that shows ``body`` with a study and ``empty`` without."""
    return LiveRegion(
        key,
        [empty, body],
        lambda view: str(view.name),
        lambda view: {
            empty: gr.update(visible=view.study is None),
            body: gr.update(visible=view.study is not None),
        },
    )


def ready_region(
    key: str,
    empty: Block,
    body: Block,
    needs: str,
    unready: Callable[[Study], str],
    ready: Callable[[StudyView], bool],
) -> LiveRegion:
    """The region that shows ``body`` with a study that is ``ready`` for it.

    Without a study ``empty`` says what the tab ``needs``, and ``unready`` describes it for a study that is not ready.
    """

    def draw(view: StudyView) -> Updates:
        text = unready(view.study) if view.study else needs_study(t(needs))
        return {
            empty: gr.update(value=text, visible=not ready(view)),
            body: gr.update(visible=ready(view)),
        }

    return LiveRegion(key, [empty, body], lambda view: f"{view.name}:{ready(view)}", draw)


def inform(text: str, title: str = "", *, seconds: int = 10) -> None:
    """Show a pop-up message."""
    gr.Info(toast(text), duration=seconds, title=title or pop_up_titles()["info"])


def chosen_study(study: Study, state: str) -> dict[str, Any]:
    """The update of the picker that chooses a study, which its list may not have yet."""
    return gr.update(choices=[(picker_label(study.title, state), study.name)], value=study.name)


def page_versions(sections: Sequence[LiveRegion], look: StudyView) -> tuple[str, dict[str, str]]:
    """One hash of all versions, and a hash of the version of each region by its key."""
    parts = {}
    for section in sections:
        try:
            mark = section.mark(look)
        except AssistantBuilderError:  # a damaged file, for example study.yaml
            mark = f"damaged:{look.mark}"
        except (
            Exception
        ):  # a file of another version; drawing the region says so, and the other regions are drawn
            _log.debug("no version of %s of study %s", section.key, look.name, exc_info=True)
            mark = f"unknown:{look.mark}"
        parts[section.key] = _digest(f"{language()}:{mark}")
    return _digest(json.dumps([language(), look.name, parts])), parts


def is_local(request: gr.Request) -> bool:
    """Whether a browser is on the computer that runs the page."""
    return bool(request.request is not None and request.request.scope.get(LOCAL))


def refresh(
    sections: Sequence[LiveRegion], name: str | None, drawn: str, *, local: bool = True
) -> list[Any]:
    """Redraw the regions that have changed.

    Args:
        sections: The regions of the page.
        name: The selected study.
        drawn: :func:`page_versions` that the browser window shows, as JSON; empty or invalid: everything is redrawn.
        local: See :class:`StudyView`.

    Returns:
        The new versions as JSON, then the values of all outputs in order; unchanged ones are skipped.
    """
    look, seen = StudyView(name, local=local), {}
    with contextlib.suppress(
        ValueError, TypeError, KeyError, RecursionError
    ):  # a window older than the server
        seen = json.loads(drawn)["parts"]
    whole, current = page_versions(sections, look)
    values: list[Any] = []
    for section in sections:
        if isinstance(seen, dict) and seen.get(section.key) == current[section.key]:
            values += [gr.skip()] * len(section.outputs)
        else:
            values += _draw(section, look)
    shown = json.dumps({"whole": whole, "parts": current})
    return [gr.skip() if shown == drawn else shown, *values]


def _digest(mark: str) -> str:
    return hashlib.blake2b(mark.encode("utf-8", errors="surrogatepass"), digest_size=9).hexdigest()


def _draw(section: LiveRegion, look: StudyView) -> Sequence[Any]:
    """Draw one region; an error in it, such as a file of another version, must not affect the others."""
    try:
        return section.values(look)
    except AssistantBuilderError as error:  # a damaged file
        remedy = " ".join(filter(None, map(render, (error.where, error.remedy))))
        text = toast(render(error.what), remedy)
    except Exception as error:
        _log.exception("the page cannot draw %s of study %s", section.key, look.name)
        text = toast(
            t("{key} cannot be shown: {error!r}", key=section.key, error=error),
            t("The terminal that runs the page shows more"),
        )
    gr.Warning(text, title=pop_up_titles()["warning"])
    return [gr.skip()] * len(section.outputs)


PATH = "/pulse"
REFRESH_BUTTON_ID = "ab-follow"
POLL_SCRIPT = (
    (Path(__file__).parent / "scripts" / "pulse.js")
    .read_text(encoding="utf-8")
    .replace("PATH", PATH)
    .replace("FOLLOW_ID", REFRESH_BUTTON_ID)
)
"""JavaScript that polls after page load."""
STORE_VERSION_SCRIPT = (
    "(versions) => { window.abDrawn = versions ? JSON.parse(versions).whole : null; }"
)
"""JavaScript that receives the JSON of :func:`refresh`."""


def pulse_route(sections: Sequence[LiveRegion]) -> Callable[[Request], Response]:
    """The handler of :data:`PATH`: the hash of all versions for the study in the query, or for the home screen."""

    def pulse(request: Request) -> Response:
        return PlainTextResponse(
            page_versions(sections, StudyView(request.query_params.get("study")))[0]
        )

    return pulse


def browser_state(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser stores across reloads and restarts of the server.

    Storage key and secret are fixed, because gradio would choose both at random at every start. Call ``render()``
    outside of all tabs: the browser reads the value only from a component that is shown.
    """
    secret = _browser_key()
    # Servers with different homes can share an address and with it the browser's storage: the key separates them.
    place = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return gr.BrowserState(
        default, storage_key=f"assistant-builder-{name}-{place}", secret=secret, render=False
    )


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
