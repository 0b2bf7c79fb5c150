"""An endpoint as a child process: it listens on a free port of the loopback address and ends with its parent."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, cast

from assistant_builder.child_process import compute_environment, configure_libraries, python_command
from assistant_builder.child_protocol import Child, Events, end_with_standard_input
from assistant_builder.config import Approach
from assistant_builder.errors import AssistantBuilderError, ConfigError, error_texts
from assistant_builder.i18n import Text, m
from assistant_builder.serving.auth import API_KEY_VARIABLE
from assistant_builder.serving.website import Website
from assistant_builder.study import Study

Phase = Literal["off", "starting", "running", "failed"]
_PORTS = range(8101, 8200)
WEBSITE = "website"
"""Argument of a process that serves the bubble of a study's website."""
_END_SECONDS = 5
"""Time that an endpoint has to end before it is killed."""
_SECRETS = (API_KEY_VARIABLE, f"{API_KEY_VARIABLE}_FILE")
"""Variables that the child does not get: it needs no key, because only this machine reaches it."""


@dataclass(frozen=True)
class EndpointState:
    """State of an endpoint."""

    phase: Phase = "off"
    url: str = ""  # with ``/v1``, while it runs
    model: str = ""  # name of the model in a request
    error: Text = ""  # if it failed
    arm: str = ""  # or ``copy``


def endpoint_command(study: Study, arm: str) -> list[str]:
    """The command line of the endpoint of one assistant."""
    return python_command("-m", "assistant_builder.serving.endpoint_process", f"{study.name}:{arm}")


class Endpoints:
    """The endpoints that this process has started, at most one for each study."""

    def __init__(self, command: Callable[[Study, str], Sequence[str]] = endpoint_command) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._states: dict[str, EndpointState] = {}
        self._children: dict[str, Child] = {}

    def state(self, name: str | None) -> EndpointState:
        """The state of a study's endpoint."""
        return self._states.get(name or "", EndpointState())

    def start(self, study: Study, arm: str) -> None:
        """Start the endpoint of a study, unless it is running or starting."""
        with self._lock:
            if self.state(study.name).phase in ("starting", "running"):
                return
            environment = {
                key: value for key, value in compute_environment().items() if key not in _SECRETS
            }
            child = Child(self._command(study, arm), environment)
            self._children[study.name] = child
            self._states[study.name] = EndpointState("starting", arm=arm)
        threading.Thread(target=self._follow, args=(study.name, child, arm), daemon=True).start()

    def stop(self, name: str) -> None:
        """End the endpoint of a study, if it has one."""
        with self._lock:
            child = self._children.pop(name, None)
            self._states.pop(name, None)
        if child is not None:
            child.end(_END_SECONDS)

    def close(self) -> None:
        """End all endpoints."""
        for name in list(self._children):
            self.stop(name)

    def _follow(self, name: str, child: Child, arm: str) -> None:
        error: Text = ""
        for event in child.events():
            if event["event"] == "failed":
                error = AssistantBuilderError(**error_texts(event["error"])).line
                continue
            url, model = event["url"], event["model"]
            self._record(name, child, EndpointState("running", url, model, arm=arm))
        error = error or child.last_words or m("its process ended")
        self._record(name, child, EndpointState("failed", error=error, arm=arm))

    def _record(self, name: str, child: Child, state: EndpointState) -> None:
        with self._lock:
            if self._children.get(name) is child:
                self._states[name] = state


def _free_port() -> int:
    """A port below those that systems give to outgoing connections, so that it is free after a restart, too."""
    for port in _PORTS:
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise ConfigError(
        m("no port from {first} to {last} is free", first=_PORTS[0], last=_PORTS[-1]),
        remedy=m("End other servers on this computer"),
    )


class Websites(Endpoints):
    """The bubbles that this process serves, at most one for each study."""

    def __init__(self) -> None:
        super().__init__(lambda study, arm: [*endpoint_command(study, arm), WEBSITE])

    def publish(self, study: Study, website: Website, arm: str) -> None:
        """Serve the bubble of a study from now on, and whenever the page runs.

        Raises:
            ConfigError: An address is missing or wrong.
        """
        found = website.checked()
        port = found.port if found.port in _PORTS else _free_port()
        replace(found, port=port, running=True).save(study)
        self.stop(study.name)
        self.start(study, arm)

    def withdraw(self, study: Study) -> None:
        """End the bubble of a study; its settings are kept."""
        replace(Website.of(study), running=False).save(study)
        self.stop(study.name)


def main() -> int:
    """Serve ``NAME:ARM [APPROACH]`` until standard input closes; ``NAME:copy`` copies answers.

    With :data:`WEBSITE` in place of the approach, it is the bubble of the study's website. The event ``ready``
    has the fields of :class:`EndpointState`. Without an approach it is the recommended one.
    """
    from assistant_builder.config.serving import ServingConfig
    from assistant_builder.error_translation import translate_error
    from assistant_builder.retrieval.copying import COPY
    from assistant_builder.serving.engine import start_worker
    from assistant_builder.serving.local import serve_with
    from assistant_builder.serving.registry import select_copies, select_models

    end_with_standard_input()
    configure_libraries()
    events = Events()

    def announce(text: str) -> None:
        ready = json.loads(text)
        model = next(iter(ready["aliases"]))
        events.emit("ready", url=ready["url"], model=model)

    try:
        wanted, more = sys.argv[1], (*sys.argv[2:], None)[0]
        name, _, arm = wanted.partition(":")
        website = more == WEBSITE
        approach = None if website else cast("Approach | None", more)
        config = ServingConfig(port=0, widget=True)
        if website:
            config = Website.of(Study.open(name)).config()
        serve_with(
            start_worker,
            select_copies([name])
            if arm == COPY
            else select_models([wanted], lambda study: arm, approach),
            config,
            None,
            as_json=True,
            without_key=None if website else True,
            announce=announce,
        )
    except Exception as error:
        translated = translate_error(error)
        print(translated, file=sys.stderr)
        events.emit("failed", error=translated.to_record())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
