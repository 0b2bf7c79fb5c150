"""Serving the page: our own socket and uvicorn, gradio mounted inside, the gate in front of everything.

``launch()`` of gradio is not used. It asks its own address whether it answers and gives up within seconds on a busy
machine, it trusts headers that any client can send, and it answers what is never asked for here.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from assistant_builder.access.bodies import Bodies
from assistant_builder.access.connections import bounded_config
from assistant_builder.access.gate import Gate
from assistant_builder.access.hosts import Hosts
from assistant_builder.access.listening import listen
from assistant_builder.access.login import Login, user_of
from assistant_builder.access.rules import Access
from assistant_builder.ui import pulse, uploads
from assistant_builder.ui.events import Events
from assistant_builder.ui.own_folder import uploads_folder
from assistant_builder.ui.policy import OnlyWhatIsUsed, StayAtHome
from assistant_builder.ui.sections import Page
from assistant_builder.ui.theme import STYLE_SHEETS, make_theme
from assistant_builder.ui.windows import Windows

_QUEUE_LIMIT = 8
"""Events of one kind that are worked on at a time, where the event itself does not say."""
_LEAVE_SECONDS = 3
"""How long a server that was asked to stop waits for the answers it has begun."""
_LOG_IN_AGAIN = (Path(__file__).parent / "log_in_again.js").read_text(encoding="utf-8")


class Serving:
    """A page that is being served.

    Args:
        server: Answers the requests.
        access: Where it does.
    """

    def __init__(self, server: uvicorn.Server, access: Access) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self.access = access

    @property
    def url(self) -> str:
        """The page's address."""
        return self.access.url

    def run(self, listener: socket.socket) -> None:
        """Serve until interrupted."""
        previous = signal.signal(signal.SIGTERM, _leave)
        try:
            self._server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # the server has stopped by then; it only hands the signal on
        finally:
            signal.signal(signal.SIGTERM, previous)

    def start(self, listener: socket.socket) -> None:
        """Serve from a thread; connections are taken from now on and answered as soon as it is ready."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and wait for it."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


def serve_page(build: Callable[[], Page], access: Access, *, block: bool = True) -> Serving:
    """Serve a page.

    Args:
        build: Makes the page, or gives it where it is made already; called once it is clear that it can be served.
        access: Where, and to whom.
        block: Return when it is interrupted; else at once, and serve from a thread.

    Raises:
        ConfigError: It would be open to everyone, or cannot listen there.
    """
    warnings = access.check()
    listener = listen(access.host, access.port)  # who connects from now on waits until the page is ready
    access = replace(access, port=listener.getsockname()[1])
    app, stop = page_app(build(), access)
    config = bounded_config(
        app, access.connections, proxy=access.proxy, log_level="warning", access_log=False, server_header=False,
        lifespan="on", proxy_headers=bool(access.proxy), forwarded_allow_ips=access.proxy or None,
        timeout_graceful_shutdown=_LEAVE_SECONDS, ssl_certfile=access.certificate, ssl_keyfile=access.key,
    )
    ready = [f"warning: {line}" for line in warnings]
    if block:
        ready.append(f"Assistant Builder is at {access.url} (Ctrl-C ends the page; runs go on)")
    serving = Serving(_Server(config, ready, stop), access)
    if block:
        serving.run(listener)
    else:
        serving.start(listener)
    return serving


def page_app(page: Page, access: Access) -> tuple[ASGIApp, Callable[[], None]]:
    """Everything that answers a request, from the outermost layer to gradio.

    Returns:
        The ASGI app, and what to call as soon as it is to stop.
    """
    folder, demo = uploads_folder(), page.demo
    login = Login(access.user, access.password) if access.user is not None and access.password is not None else None
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer.add_route(uploads.PATH, uploads.Uploads(folder, access.limits, demo).answer, methods=["POST"])
    outer.add_route(pulse.PATH, pulse.pulse_route(page.sections), methods=["GET"])
    gr.mount_gradio_app(
        outer, demo.queue(default_concurrency_limit=_QUEUE_LIMIT), path="/", server_name=access.host,
        server_port=access.port, theme=make_theme(), css_paths=STYLE_SHEETS, footer_links=[], show_error=False,
        js=_LOG_IN_AGAIN if login is not None else None, auth_dependency=user_of if login is not None else None,
        max_file_size=access.limits.file_bytes, allowed_paths=[], blocked_paths=[], ssr_mode=False,
        enable_monitoring=False, run_history=False, mcp_server=False, pwa=False,
    )
    # mounting leaves this off, and without it gradio checks no file that a request names
    demo.has_launched = True
    inner = outer.routes[-1].app  # type: ignore[attr-defined]
    windows = Windows()
    inner.state_holder = windows
    windows.set_blocks(demo)

    def stop() -> None:
        demo.is_running = False
        demo._queue.close()
        inner.stop_event.set()

    events = Events(outer, demo, windows)
    app: ASGIApp = Bodies(events, access.limits, folder, uploads.PATH, events.judge)
    app = OnlyWhatIsUsed(app, folder)
    app = Gate(app, Hosts(access.host, access.allowed_hosts), login)
    return StayAtHome(app), stop


class _Server(uvicorn.Server):
    """Says when it is ready, and lets go of open streams when it stops: those would never end by themselves."""

    def __init__(self, config: uvicorn.Config, ready: list[str], stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._ready:
            print(line, file=sys.stderr if line.startswith("warning") else sys.stdout, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the ordinary way, so that what is tidied up at exit is."""
    raise SystemExit(128 + number)
