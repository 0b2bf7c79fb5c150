"""vLLM as a runtime: its server in a process of its own, asked over a socket that only this user can open.

Prompts are token ids of the study's own tokenizer, so that system prompts, facts and escaped control tokens are the
same as in PyTorch. The protocol is that of ``/v1/completions`` (``vllm/entrypoints/openai/completion/protocol.py``).
The socket lies in a folder of mode 700, because vLLM's key does not protect all of its paths.

The process that starts vLLM (``python -m assistant_builder.inference.vllm``) ends it, and the processes that vLLM has
started, when its standard input closes: no vLLM keeps a GPU after the program that needed it has ended.
"""

from __future__ import annotations

import http
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from assistant_builder.child_process import last_line, python_command, python_environment
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Finish, Sampling
from assistant_builder.inference.completions import (
    CONNECT_SECONDS,
    CompletionChunk,
    LocalConnection,
    RuntimeServer,
)

PROGRAM = "vllm"
_LOAD_SECONDS = 3600.0  # reading and compiling a model of 70B
_HEALTH_SECONDS = 0.5
_POLL_SECONDS = 0.1
_END_SECONDS = 20.0  # time in which vLLM ends itself before it is killed


def require_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        ConfigError: Its program is not on the PATH.
    """
    if shutil.which(PROGRAM) is None:
        raise ConfigError(
            m("vLLM is not installed"),
            where="serve",
            remedy=m(
                "Install it where there is a GPU (pip install vllm vllm-bnb-plugin; up to vLLM 0.27 bitsandbytes in "
                "the plugin's place), or serve with --backend local"
            ),
        )


class VllmServer(RuntimeServer):
    """A running ``vllm serve``; a context manager that ends it."""

    runtime = where = "vLLM"
    advice = "serve with --backend local"

    def __init__(self, command: Sequence[str]) -> None:
        """Start the server and wait until it answers.

        Args:
            command: ``vllm serve`` with its model and options, without an address.

        Raises:
            ConfigError: vLLM is not installed.
            ModelError: It ended, or is not ready after an hour.
        """
        require_vllm()
        self._command = list(command)
        self._folder = Path(tempfile.mkdtemp(prefix="vllm-"))  # mode 700
        self._socket = str(self._folder / "socket")
        self._log: IO[bytes] = tempfile.TemporaryFile()
        # uvicorn's access log and vLLM's statistics would grow as long as it runs
        words = [*self._command, "--uds", self._socket, "--uvicorn-log-level", "warning"]
        words.append("--disable-log-stats")
        # it would report the model to its makers
        environment = python_environment() | {"VLLM_NO_USAGE_STATS": "1"}
        self._process = subprocess.Popen(
            python_command("-m", __name__, json.dumps(words)),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        began = time.monotonic()
        try:
            while not self._healthy():
                if not self.running:
                    raise self._ended("vLLM could not start")
                if time.monotonic() - began > _LOAD_SECONDS:
                    raise ModelError(
                        m(
                            "vLLM was not ready after {load_seconds:.0f} minutes",
                            load_seconds=_LOAD_SECONDS / 60,
                        ),
                        where=self.where,
                        remedy=m("Try again, or serve with --backend local"),
                    )
                time.sleep(_HEALTH_SECONDS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server, and with it all answers."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2 * _END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stream(
        self,
        model: str,
        ids: Sequence[int],
        max_new_tokens: int,
        *,
        stop_ids: Sequence[int] = (),
        logprobs: bool = False,
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[CompletionChunk]:
        """Answer a prompt chunk by chunk, until ``stop_event`` is set; closing the iterator ends the computation, too.

        Args:
            model: Name of the adapter, as of ``--lora-modules``.
            ids: Tokens of the prompt.
            max_new_tokens: Most tokens of the answer.
            stop_ids: Tokens that end it, in addition to the end of sequence of the base.
            logprobs: Whether log-probabilities are returned.
            sampling: Temperature, top-p and seed.
            stop_event: Ends the answer when it is set.

        Yields:
            The chunks, then a last one with ``finish``.

        Raises:
            ModelError: The process has ended, or refuses the prompt.
        """
        body = {
            "model": model,
            "prompt": list(ids),
            "max_tokens": max_new_tokens,
            "stop_token_ids": list(stop_ids),
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **({"top_p": sampling.top_p} if sampling.temperature else {}),
            **({"seed": sampling.seed} if sampling.seed is not None else {}),
            **({"logprobs": 1} if logprobs else {}),
        }

        def read(line: bytes) -> CompletionChunk | None:
            if not line.startswith(b"data: {"):  # blank, or [DONE]
                return None
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise self._refused(line.removeprefix(b"data: "))
            if not event["choices"]:  # the total after the last chunk
                return None
            choice, tokens = event["choices"][0], int(event["usage"]["completion_tokens"])
            reason = choice.get("finish_reason")
            finish: Finish | None = reason and ("length" if reason == "length" else "stop")
            tokens -= finish == "stop"  # the token that ends an answer is counted
            return CompletionChunk(choice["text"], tokens, _logprobs(choice), finish)

        yield from self._stream("/v1/completions", body, stop_event, read)

    def _connect(self) -> http.client.HTTPConnection:
        return LocalConnection(self._socket, CONNECT_SECONDS)

    def _healthy(self) -> bool:
        connection = self._connect()
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ended(self, what: str) -> ModelError:
        if self._exit_code(_HEALTH_SECONDS) is None:
            return ModelError(what, where=self.where, remedy=m("Try again"))
        said = "it was closed" if self._log.closed else last_line(self._log)
        return ModelError(
            f"{what} ({said[:300] or f'exit code {self._process.returncode}'})",
            where=self.where,
            remedy=m("To see all that it says, run: {command}", command=shlex.join(self._command)),
        )


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, ...]:
    # log-probabilities of the likeliest tokens in a chunk; vLLM adds the sampled token to the likeliest ones
    positions = (choice.get("logprobs") or {}).get("top_logprobs", ())
    return tuple(max(each.values()) for each in positions)


# in the process


def main() -> int:
    """Run a command until standard input closes: ``python -m assistant_builder.inference.vllm COMMAND``, as JSON."""
    closed = threading.Event()

    def follow_input() -> None:
        while os.read(0, 1 << 10):
            pass
        closed.set()

    threading.Thread(target=follow_input, daemon=True).start()
    with subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.DEVNULL) as process:
        while process.poll() is None and not closed.is_set():
            closed.wait(_POLL_SECONDS)
        _signal_others(signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while _others() and time.monotonic() < deadline:
            process.poll()
            time.sleep(_POLL_SECONDS)
        _signal_others(signal.SIGKILL)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _others() -> list[int]:
    # vLLM, and the processes that it has started, which are of this process group
    pids = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            own = process.pid != os.getpid() and os.getpgid(process.pid) == os.getpgrp()
            if own and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
    return pids


def _signal_others(number: signal.Signals) -> None:
    for pid in _others():
        with suppress(OSError):
            os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
