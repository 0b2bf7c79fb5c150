"""An endpoint as a child process: it listens on a free port of the loopback address and ends with its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Literal

from assistant_builder.child_process import (
    compute_environment,
    configure_libraries,
    last_line,
    python_command,
)
from assistant_builder.serving.auth import API_KEY_VARIABLE
from assistant_builder.study import Study

Phase = Literal["off", "starting", "running", "failed"]
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
    error: str = ""  # last line of its output, if it failed
    token: str = ""  # public token of the widget, while it runs


def endpoint_command(study: Study, arm: str) -> list[str]:
    """The command line of the endpoint of one assistant."""
    return python_command("-m", "assistant_builder.serving.child", f"{study.name}:{arm}")


class Endpoints:
    """The endpoints that this process has started, at most one for each study."""

    def __init__(self, command: Callable[[Study, str], Sequence[str]] = endpoint_command) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._states: dict[str, EndpointState] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
            log = tempfile.TemporaryFile()
            process = subprocess.Popen(
                self._command(study, arm),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            self._processes[study.name], self._states[study.name] = (
                process,
                EndpointState("starting"),
            )
        threading.Thread(target=self._follow, args=(study.name, process, log), daemon=True).start()

    def stop(self, name: str) -> None:
        """End the endpoint of a study, if it has one."""
        with self._lock:
            process = self._processes.pop(name, None)
            self._states.pop(name, None)
        if process is not None:
            _end(process)

    def close(self) -> None:
        """End all endpoints."""
        for name in list(self._processes):
            self.stop(name)

    def _follow(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        """Read the JSON that an endpoint prints when it is ready, and wait for its end."""
        assert process.stdout is not None and process.stdin is not None
        text = b""
        with log, process.stdout, process.stdin:
            for line in process.stdout:
                text += line
                with suppress(ValueError):  # it has several lines
                    ready = json.loads(text)
                    self._record(
                        name,
                        process,
                        EndpointState(
                            "running",
                            ready["url"],
                            next(iter(ready["aliases"])),
                            token=ready["widget"]["token"],
                        ),
                    )
            process.wait()
            self._record(
                name, process, EndpointState("failed", error=last_line(log) or "its process ended")
            )

    def _record(self, name: str, process: subprocess.Popen[bytes], state: EndpointState) -> None:
        with self._lock:
            if self._processes.get(name) is process:
                self._states[name] = state


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the standard input of an endpoint, which ends it, and kill it if that does not help."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_standard_input() -> None:
    """Interrupt this process when standard input closes: the system does that when the parent ends, even if killed."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Serve ``NAME:ARM`` until standard input closes; prints one line of JSON when ready."""
    from assistant_builder.config.serving import ServingConfig
    from assistant_builder.error_translation import translate_error
    from assistant_builder.serving.engine import start_worker
    from assistant_builder.serving.local import serve_with
    from assistant_builder.serving.registry import select_models

    end_with_standard_input()
    configure_libraries()
    try:
        models = select_models([sys.argv[1]], lambda study: sys.argv[1].partition(":")[2])
        serve_with(
            start_worker,
            models,
            ServingConfig(port=0, widget=True),
            None,
            as_json=True,
            without_key=True,
        )
    except Exception as error:
        print(translate_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
