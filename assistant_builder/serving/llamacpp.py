"""Serving backend ``llamacpp``: each assistant as a GGUF file in llama.cpp, fast on a CPU.

The worker process (``python -m assistant_builder.serving.llamacpp SETTINGS``) looks facts up and applies the rule for
declining as the PyTorch backend does; each file is loaded by a process of its own
(:mod:`assistant_builder.inference.llamacpp`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_json
from assistant_builder.chat.answer_server import run_models
from assistant_builder.chat.ask import assistant_context
from assistant_builder.child_process import compute_environment, python_command, run_program
from assistant_builder.config.serving import ServingBackend, ServingConfig
from assistant_builder.errors import ModelError
from assistant_builder.export.gguf import DEFAULT_TYPE, GGUF, GgufFiles, heldout_prompts
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.completions import answer_chunks
from assistant_builder.inference.llamacpp import LlamaServer, check_prompts, require_llamacpp
from assistant_builder.inference.session import ProgressCallback, Session
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import fetch_base
from assistant_builder.serving.engine import start_worker
from assistant_builder.serving.local import serve_with
from assistant_builder.serving.registry import ModelRegistry
from assistant_builder.study import Study
from assistant_builder.study.contents import ReportChoice

SLOTS = 4
"""Questions to one assistant that are answered at a time by default."""
_CHECKED = 20
"""Held-out items whose prompts are compared when a file is loaded."""


def served_type(study: Study, arm: str) -> str:
    """The type of the smallest file that is no worse if the report names one of this arm, else the default type.

    An arm that is trained for a type is served in it.
    """
    path, own = study.report_file, study.config.file_types(arm)
    if ARMS[arm].rounds and own:
        return own[0]
    found = (read_json(path, ReportChoice) if path.is_file() else {}).get("smallest_no_worse") or {}
    return (
        str(found["name"])
        if found.get("arm") == arm and found.get("name") in GGUF.types
        else DEFAULT_TYPE
    )


class LlamaCppSession(Session):
    """Assistants of a server, by id, each in a llama.cpp process of its own.

    A file that the study does not have is written first. A process that has ended is started again by the next
    question.
    """

    def __init__(
        self,
        assistants: Mapping[str, tuple[Study, str]],
        *,
        type: str | None = None,
        slots: int = 1,
        context: int | None = None,
    ) -> None:
        """Prepare the session; nothing is loaded.

        Args:
            assistants: Id → study and arm.
            type: Type of the files; None for :func:`served_type`.
            slots: Questions to one assistant that are answered at a time.
            context: Most tokens of a prompt without facts and its answer; None for the default of the study.
        """
        super().__init__(tuple(assistants), "the server")
        self._assistants, self._type, self._slots, self._requested = (
            dict(assistants),
            type,
            slots,
            context,
        )

    def ready(self, speaker: str) -> bool:
        """Whether the file is loaded and its process runs."""
        if speaker in self._loaded and not self._loaded[speaker][0].running:
            server, _ = self._loaded.pop(speaker)
            server.close()
        return super().ready(speaker)

    def close(self) -> None:
        """End the processes."""
        for server, _ in self._loaded.values():
            server.close()
        self._loaded.clear()

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        if speaker in self._loaded:
            return
        study, arm = self._assistants[speaker]
        type = self._type or served_type(study, arm)
        files = GgufFiles(study, arm)
        path = (
            files.path(type) if files.record(type) is not None else _write_file(files, type, report)
        )
        report(m("Loading the {type} file", type=type), 0.8)
        base = fetch_base(study.config.model)
        prompter = ChatTokenizer.load(base, study.template_date)
        context = assistant_context(study, context_length(base), self._requested)
        server = LlamaServer(path, context=context, slots=self._slots)
        try:
            items = heldout_prompts(study, _CHECKED)
            check_prompts(
                server, prompter, {str(item["item"]): messages for item, messages in items}
            )
            self._look_up(study, prompter, {speaker: arm})
        except BaseException:
            server.close()
            raise
        self._loaded[speaker] = server, prompter

    def _context(self, speaker: str) -> int:
        return int(self._loaded[speaker][0].context)

    def _generate(
        self,
        speaker: str,
        ids: Sequence[int],
        limit: int,
        sampling: Sampling,
        stop_event: threading.Event,
        certainties: list[float],
    ) -> Iterator[Chunk]:
        server, prompter = self._loaded[speaker]
        return answer_chunks(
            server.stream(
                ids,
                limit,
                stop_ids=prompter.stop_ids,
                logprobs=speaker in self._grounded and sampling.look_up,
                sampling=sampling,
                stop_event=stop_event,
            ),
            certainties,
        )


def _write_file(files: GgufFiles, type: str, report: ProgressCallback) -> Path:
    """Write a file in a process, which needs PyTorch, and whose memory is free afterwards."""
    options = {
        "--study": str(files.study.folder),
        "--approach": files.study.approach or files.study.config.approaches[0],
        "--arm": files.arm,
        "--types": type,
    }
    words = [word for option in options.items() for word in option]
    command = python_command("-m", "assistant_builder.export.gguf", *words)
    code, last = run_program(
        command, compute_environment(), lambda: report(m("Writing the {type} file", type=type), 0.3)
    )
    if code:
        raise ModelError(
            m(
                "the {type} file could not be written: {reason}",
                type=type,
                reason=last or m("exit code {code}", code=code),
            ),
            where=m("{study} {name}", name=files.study.name),
            remedy=m(
                "Try 'assistant-builder export {name} --arm {arm} --format gguf --type {type} --to DIR'",
                name=files.study.name,
                arm=files.arm,
                type=type,
            ),
        )
    return files.path(type)


def serve_with_llamacpp(
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    as_json: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until interrupted; arguments as of :attr:`ServingBackend.start`.

    Raises:
        ConfigError: The extra ``gguf`` is not installed, other machines could use the server without a key, or the
            address is not available.
        ModelError: A base is not available.
    """
    require_llamacpp()
    slots = config.slots or SLOTS

    start = partial(
        start_worker, module=__name__, type=config.type, slots=slots, context=config.context
    )
    serve_with(start, models, config, key, slots=slots, as_json=as_json)


LLAMACPP = ServingBackend(
    name="llamacpp",
    label="llama.cpp",
    start=serve_with_llamacpp,
    requires="the extra gguf",
    explanation="this machine, GGUF files in llama.cpp: the fastest on a CPU",
)


if __name__ == "__main__":
    run_models(LlamaCppSession)
