"""llama.cpp as a runtime: its server in a process of its own, asked over a connection on this machine.

The process is that of the package ``xllamacpp``, which contains the server as a library. A crash of it ends its answers
with an error and nothing else, and it ends when the process that started it ends. It listens on the loopback address at
a free port and accepts only requests with a key that is made for it.

Prompts are token ids of the study's own tokenizer, so that grounded prompts and escaped control tokens are the same as
in PyTorch. :func:`check_prompts` compares them with those that the file's own tokenizer and chat template make.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from assistant_builder.child_process import (
    compute_environment,
    last_line,
    python_command,
    usable_cores,
    without_secrets,
)
from assistant_builder.data import Message
from assistant_builder.errors import (
    AssistantBuilderError,
    ConfigError,
    EvaluationError,
    ModelError,
    install_command,
)
from assistant_builder.i18n import Text, m
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.completions import CONNECT_SECONDS, CompletionChunk, RuntimeServer
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.quantization.gguf import GgufFile, read_gguf

PACKAGE = "xllamacpp"
DEFAULT_CONTEXT = 4096  # tokens of a prompt and its answer together
_LOAD_SECONDS = 600.0
_TEXT_SECONDS = 60.0  # for tokenizer and chat template
_END_SECONDS = 5.0
_EXCERPT = 40  # characters of each text in a message about a difference
_ERROR_LINE = re.compile(r"[\d.]+ E \S+ +(.*\S)")
_LOG_BYTES = 1_000_000
_CERTAIN = 1e9  # added to the logit of a token that is to be drawn
LEAST_LOGPROB = -100.0
"""Log-probability of a token that float32 rounds to a probability of 0."""
GREEDY = Sampling()


def is_installed() -> bool:
    """Whether the package with llama.cpp's server is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def require_llamacpp() -> None:
    """Check that the package with llama.cpp's server is installed.

    Raises:
        ConfigError: It is not.
    """
    if not is_installed():
        raise ConfigError(
            m("llama.cpp needs the package {package}, which is not installed", package=PACKAGE),
            remedy=m("Install it with {install_command}", install_command=install_command("gguf")),
        )


def _thread_count() -> int:
    # those of ``OMP_NUM_THREADS``, else the cores that this process may use
    with suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return usable_cores()


@dataclass(frozen=True)
class Completion:
    """A complete answer."""

    text: str  # as llama.cpp decodes it, without special tokens
    ids: tuple[int, ...]  # its tokens, without the one that ends it
    # log-probability of the likeliest token at each position, that of the ending token included; those of tokens that
    # end within a character are missing; empty if they were not asked for
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int  # of the prompt, which were in the cache of a slot
    first_token_seconds: float  # from the start of its computation, without waiting
    tokens_per_second: float  # of the answer, without the prompt


class LlamaServer(RuntimeServer):
    """A GGUF file loaded by llama.cpp; a context manager that ends the process.

    Attributes:
        file: Header of the file.
        load_seconds: Time from the start of the process until it answered.
        context: Tokens of a prompt and its answer together.
        slots: Answers that are generated at a time; each keeps the keys and values of its last prompt, whose common
            prefix a later prompt does not compute again.
    """

    runtime, advice = "llama.cpp", "export the file again"

    def __init__(
        self,
        path: Path,
        *,
        context: int = DEFAULT_CONTEXT,
        slots: int = 1,
        threads: int | None = None,
    ) -> None:
        """Start the process and wait until the file is loaded.

        Args:
            path: The GGUF file.
            context: Tokens of a prompt and its answer together.
            slots: Answers that are generated at a time.
            threads: Threads that compute; None for :func:`_thread_count`.

        Raises:
            ConfigError: The package is not installed.
            ModelError: The file is damaged, or llama.cpp cannot load it.
        """
        require_llamacpp()
        self.file: GgufFile = read_gguf(path)
        self.context, self.slots, self.where = context, slots, str(path)
        key, began = secrets.token_urlsafe(32), time.monotonic()
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            python_command("-m", __name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            env=without_secrets(compute_environment()),
        )
        try:
            settings = {
                "path": str(path),
                "context": context,
                "slots": slots,
                "threads": threads or _thread_count(),
                "key": key,
                "load_seconds": _LOAD_SECONDS,
            }
            assert self._process.stdin is not None
            with suppress(OSError):  # it ended; the missing reply says so
                self._process.stdin.write(json.dumps(settings).encode() + b"\n")
                self._process.stdin.flush()
            self.headers = {"Authorization": f"Bearer {key}"}
            self._address = self._wait()
        except BaseException:
            self.close()
            raise
        self.load_seconds = time.monotonic() - began

    def _wait(self) -> str:
        timer = threading.Timer(_LOAD_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._ended("llama.cpp could not load the file")
        return str(json.loads(line)["address"])

    def close(self) -> None:
        """End the process, and with it all answers."""
        process = self._process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._log.close()

    @property
    def resident_bytes(self) -> int:
        """Bytes of main memory that the process occupies, with the pages of the file that were read."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    @property
    def processor_seconds(self) -> float:
        """Processor time of the process."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def complete(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        *,
        stop_ids: Sequence[int] = (),
        logprobs: bool = False,
        sampling: Sampling = GREEDY,
        slot: int = -1,
    ) -> Completion:
        """Answer a prompt.

        Args:
            ids: Tokens of the prompt.
            max_new_tokens: Most tokens of the answer.
            stop_ids: Tokens that end it, in addition to those that the file names.
            logprobs: Whether log-probabilities are returned, which takes time.
            sampling: Temperature, top-p and seed; greedy by default.
            slot: Slot that computes it; -1: the one whose last prompt is the most similar.

        Raises:
            ModelError: The process has ended, or refuses the prompt.
        """
        body = {**self._body(ids, max_new_tokens, logprobs, sampling), "id_slot": slot}
        reply = self._post("/completion", body, seconds=None)
        tokens = [int(token) for token in reply["tokens"]]
        end = next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
        ended, text = end < len(tokens), reply["content"]
        if not ended and reply["stop_type"] == "eos":
            end -= 1
        if ended and end + 1 < len(tokens):  # a token that does not end an answer for llama.cpp
            text = self._post("/detokenize", {"tokens": tokens[:end]})["content"]
        timings = reply["timings"]
        return Completion(
            text,
            tuple(tokens[:end]),
            _logprobs(reply)[: end + 1],
            "length" if reply["stop_type"] == "limit" and not ended else "stop",
            int(reply["tokens_evaluated"]),
            int(timings["cache_n"]),
            float(timings["prompt_ms"]) / 1000,
            float(timings["predicted_per_second"]),
        )

    def complete_all(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Sequence[int] = (),
        logprobs: bool = False,
    ) -> Iterator[tuple[int, Completion]]:
        """Answer prompts greedily, as many at a time as there are slots.

        Each slot answers prompts that follow each other in the order of their tokens, so that it computes again as
        little as possible of a prompt that begins as the one before it.

        Yields:
            The place of a prompt and its answer, as soon as it is complete.

        Raises:
            ModelError: See :meth:`complete`.
        """
        order = sorted(range(len(prompts)), key=lambda place: list(prompts[place]))
        share = -(-len(order) // self.slots)
        threads = [ThreadPoolExecutor(1) for _ in range(self.slots)]
        try:
            places: dict[Future[Completion], int] = {}
            for number, place in enumerate(order):
                slot = number // share
                ask = partial(self.complete, stop_ids=stop_ids, logprobs=logprobs, slot=slot)
                places[threads[slot].submit(ask, prompts[place], max_new_tokens)] = place
            for answered in as_completed(places):
                yield places[answered], answered.result()
        finally:
            for thread in threads:
                thread.shutdown(wait=False, cancel_futures=True)

    def loglikelihoods(
        self, prompt: Sequence[int], target: Sequence[int], *, slot: int = -1
    ) -> list[float]:
        """The log-probability of each token of an answer, given a prompt and the tokens before it.

        llama.cpp's server has no log-probabilities of prompts. Each token is therefore made certain to be drawn by a
        bias, and the server says how likely it was without the bias, over the whole vocabulary. The prompt is computed
        once, because a slot keeps it.

        Args:
            prompt: Tokens of the prompt.
            target: Tokens of the answer.
            slot: Slot that computes it; -1: the one whose last prompt is the most similar.

        Raises:
            ModelError: The process has ended, or refuses the prompt.
        """
        found = []
        for place, token in enumerate(target):
            body = self._body([*prompt, *target[:place]], 1, True, GREEDY)
            body |= {"id_slot": slot, "logit_bias": [[token, _CERTAIN]]}
            drawn = self._post("/completion", body, seconds=None).get("completion_probabilities")
            found.append(float(drawn[0]["logprob"]) if drawn else self._listed(body, token))
        return [max(value, LEAST_LOGPROB) for value in found]

    def _listed(self, body: Mapping[str, Any], token: int) -> float:
        # llama.cpp reports no token that ends within a character: the whole list of another one has it
        others = [other for other in self.tokenize("a") if other != token]
        for count in (100, 10_000, 1_000_000):
            for other in others:
                bias = {"logit_bias": [[other, _CERTAIN]], "n_probs": count}
                reply = self._post("/completion", {**body, **bias}, seconds=None)
                for position in reply.get("completion_probabilities", ()):
                    for each in position["top_logprobs"]:
                        if each["id"] == token:
                            return float(each["logprob"])
        return LEAST_LOGPROB

    def stream(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        *,
        stop_ids: Sequence[int] = (),
        logprobs: bool = False,
        sampling: Sampling = GREEDY,
        stop_event: threading.Event | None = None,
    ) -> Iterator[CompletionChunk]:
        """Answer a prompt chunk by chunk, until ``stop_event`` is set; closing the iterator ends the computation, too.

        The other arguments are those of :meth:`complete`.

        Yields:
            One chunk for each token that completes a character, then a last one with ``finish``.

        Raises:
            ModelError: The process has ended, or refuses the prompt.
        """

        def read(line: bytes) -> CompletionChunk | None:
            kind, _, content = line.partition(b": ")
            if not content:
                return None
            event = json.loads(content)
            if kind == b"error" or "error" in event:
                raise self._refused(content)
            tokens, certainties = int(event["tokens_predicted"]), _logprobs(event)
            ended = any(token in stop_ids for token in event["tokens"])
            if not ended and not event["stop"]:
                return CompletionChunk(event["content"], tokens, certainties)
            if not ended and event["stop_type"] == "limit":
                return CompletionChunk(event["content"], tokens, certainties, "length")
            text = "" if ended else event["content"]
            return CompletionChunk(text, tokens - 1, certainties, "stop")

        body = {**self._body(ids, max_new_tokens, logprobs, sampling), "stream": True}
        yield from self._stream("/completion", body, stop_event or threading.Event(), read)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a rendered prompt by the file's tokenizer, as llama.cpp's chat endpoint makes them."""
        reply = self._post(
            "/tokenize", {"content": text, "add_special": True, "parse_special": True}
        )
        return [int(token) for token in reply["tokens"]]

    def tokenize_text(self, text: str) -> list[int]:
        """The tokens of a text alone, in which no control token is recognised."""
        body = {"content": text, "add_special": False, "parse_special": False}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._post("/detokenize", {"tokens": list(ids)})["content"])

    def apply_template(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt for turns with ``role`` and ``content`` by the file's chat template.

        Raises:
            ModelError: The template refuses the conversation.
        """
        body = {"messages": list(turns), "chat_template_kwargs": {"enable_thinking": False}}
        return str(self._post("/apply-template", body)["prompt"])

    def _body(
        self, ids: Sequence[int], max_new_tokens: int, logprobs: bool, sampling: Sampling
    ) -> dict[str, Any]:
        body = {
            "prompt": list(ids),
            "n_predict": max_new_tokens,
            "temperature": sampling.temperature,
            "samplers": ["temperature"],
            "cache_prompt": True,
            "return_tokens": True,
            "n_probs": int(logprobs),
        }
        if sampling.temperature:
            seed = -1 if sampling.seed is None else sampling.seed
            body |= {"samplers": ["temperature", "top_p"], "top_p": sampling.top_p, "seed": seed}
        return body

    def _post(
        self, path: str, body: Mapping[str, Any], seconds: float | None = _TEXT_SECONDS
    ) -> dict[str, Any]:
        with self._request(path, body, seconds) as response:
            reply: dict[str, Any] = json.loads(response.read())
        return reply

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=CONNECT_SECONDS)

    def _failed(self, error: Exception, path: str, seconds: float | None) -> ModelError:
        if not isinstance(error, TimeoutError):
            return super()._failed(error, path, seconds)
        self._process.kill()  # a chat template that does not end
        return ModelError(
            m(
                "llama.cpp took longer than {value:g} seconds for {path}",
                value=seconds or CONNECT_SECONDS,
                path=path,
            ),
            where=self.where,
            remedy=m("Export the file again"),
        )

    def _ended(self, what: str) -> ModelError:
        code = self._exit_code(_END_SECONDS)
        if code is None:
            return ModelError(what, where=self.where, remedy=m("Try again"))
        said = "it was closed" if self._log.closed else _first_error(self._log)
        reason = signal.Signals(-code).name if code < 0 else said or f"exit code {code}"
        remedy = m(
            "Export the file again; if that does not help, install another version of {package}",
            package=PACKAGE,
        )
        if code == -signal.SIGKILL:
            remedy = m("Memory may have run out: close other programs, and try again")
        return ModelError(f"{what} ({reason[:300]})", where=self.where, remedy=remedy)


def _first_error(log: IO[bytes]) -> str:
    log.seek(0)
    for line in log.read(_LOG_BYTES).decode("utf-8", errors="replace").splitlines():
        error = _ERROR_LINE.match(line)
        if error is not None:
            return error[1].rpartition("error loading model: ")[2]
    return last_line(log)


def _logprobs(reply: Mapping[str, Any]) -> tuple[float, ...]:
    positions = reply.get("completion_probabilities", ())
    return tuple(float(each["top_logprobs"][0]["logprob"]) for each in positions)


def check_prompts(
    server: LlamaServer, prompter: ChatTokenizer, conversations: Mapping[str, Sequence[Message]]
) -> None:
    """Check that a file's tokenizer and chat template make exactly the study's prompts.

    A file whose prompts differ answers worse, unnoticed. Control tokens in the text of a user are broken up as in the
    study, which llama.cpp itself does not do.

    Args:
        server: The loaded file.
        prompter: Tokenizer and chat template of the study.
        conversations: Name of an item → its conversation, which ends with a question.

    Raises:
        EvaluationError: A prompt differs; the message shows the first difference with item, position and both texts.
        ModelError: The process has ended.
    """
    for item, messages in conversations.items():
        wanted = prompter.text(messages, prompt=True)
        try:
            rendered = server.apply_template(prompter.escaped_turns(messages))
        except ModelError as error:
            if not server.running:
                raise
            refused, wanted = f"it refuses the conversation ({error.what})", wanted[:_EXCERPT]
            raise _difference(server, "chat template", item, refused, repr(wanted)) from error
        # llama.cpp takes the token that begins a text off the rendered prompt if its tokenizer adds it again
        bos = str(prompter.tokenizer.bos_token or "")
        if rendered != wanted and not (bos and wanted == bos + rendered):
            place = len(os.path.commonprefix([rendered, wanted]))
            different = m(
                "at character {place} it has {excerpt}",
                place=place,
                excerpt=_excerpt(rendered, place),
            )
            raise _difference(server, "chat template", item, different, _excerpt(wanted, place))
        tokens, ids = server.tokenize(rendered), list(prompter.prompt_ids(messages))
        if tokens != ids:
            place = len(os.path.commonprefix([tokens, ids]))
            other = m("token {place} is {token}", place=place, token=_token(tokens, place, server))
            raise _difference(server, "tokenizer", item, other, _token(ids, place, server))


def _difference(
    server: LlamaServer, part: str, item: str, other: Text, own: str
) -> EvaluationError:
    return EvaluationError(
        m(
            "the file's {part} differs from the study's on item {item}: {other}, and the {study} has {own}",
            part=part,
            item=item,
            other=other,
            own=own,
        ),
        where=str(server.file.path),
        remedy=m(
            "Export it again from this {study}; the file of another program must be made with the chat template and "
            "tokenizer of the {study}'s export"
        ),
    )


def _excerpt(text: str, place: int) -> str:
    return repr(text[place : place + _EXCERPT]) if place < len(text) else "the end"


def _token(ids: Sequence[int], place: int, server: LlamaServer) -> str:
    if place >= len(ids):
        return "the end"
    try:
        return f"{server.detokenize(ids[place : place + 1])!r} (id {ids[place]})"
    except AssistantBuilderError:  # a token that the file does not have
        return f"id {ids[place]}"


# in the process


def main() -> None:
    """Serve one file until standard input closes; the first line of it has the settings."""
    settings = json.loads(sys.stdin.readline())
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps output of the library out of the replies
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["path"]
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.api_keys = [settings["key"]]
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["context"] * settings["slots"]
    parameters.fit_params = False  # would change the context to what it guesses to be free memory
    parameters.cache_ram_mib = 0  # no copies of the slots' caches
    parameters.endpoint_slots = parameters.ui = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["threads"]
    parameters.verbosity = 1  # errors
    if hasattr(
        signal, "setitimer"
    ):  # ends a template that does not, also where the parent has ended
        signal.setitimer(signal.ITIMER_REAL, settings["load_seconds"])
    try:
        server = xllamacpp.Server(parameters)
    except Exception as error:
        print(error, file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    replies.write(json.dumps({"address": server.listening_address.removeprefix("http://")}) + "\n")
    replies.flush()
    sys.stdin.read()
    os._exit(0)  # a regular exit would wait for unfinished answers


if __name__ == "__main__":
    main()
