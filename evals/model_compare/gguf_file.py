"""A GGUF file, answered and scored by llama.cpp itself, with the file's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.inference.llamacpp import LlamaServer
from assistant_builder.quantization.gguf import GgufFile, read_gguf
from evals.model_compare.candidates import Candidate, Item, Prompts, Receive, Result

SLOTS = 4  # answers at a time
_TEMPLATE_CONTEXT = 64  # tokens; the prompts are only made, not computed


@dataclass
class GgufCandidate(Candidate):
    """A GGUF file.

    Attributes:
        path: The file.
    """

    path: Path

    def __post_init__(self) -> None:
        self.kind = "GGUF"

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.name

    @property
    def gives_loss(self) -> bool:
        """By :meth:`LlamaServer.loglikelihoods`."""
        return True

    @cached_property
    def _file(self) -> GgufFile:
        return read_gguf(self.path)

    def identity(self) -> dict[str, Any]:
        """Hash, size and tensor types of the file."""
        file = self._file
        return {
            "bytes": self.path.stat().st_size,
            "sha256": file_hash(self.path),
            "architecture": file.architecture,
            "tensor_types": file.tensor_types,
        }

    def prompts(self, items: Sequence[Item]) -> Prompts:
        """The prompts by llama.cpp's own template engine and tokenizer."""
        if "tokenizer.chat_template" not in self._file.metadata:
            raise ModelError(
                m("the file has no chat template"),
                where=str(self.path),
                remedy=m("Convert the model again from a folder with its chat template"),
            )
        with LlamaServer(self.path, context=_TEMPLATE_CONTEXT) as server:
            texts = {item["item"]: server.apply_template(item["messages"]) for item in items}
            ids = {name: server.tokenize(text) for name, text in texts.items()}
            self._targets = {item["item"]: self._target(server, item) for item in items}
        self._ids = ids
        return Prompts(texts, ids)

    def _target(self, server: LlamaServer, item: Item) -> list[int]:
        # the reference answer and the token that ends a turn
        text = server.tokenize_text(str(item["reference"]).strip())
        known = self._file.metadata
        end = known.get("tokenizer.ggml.eot_token_id", known.get("tokenizer.ggml.eos_token_id"))
        return [*text, *([int(end)] if isinstance(end, int) else [])]

    def score(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        """Answer in several slots at a time."""
        if not items:
            return
        room = self._file.metadata.get(f"{self._file.architecture}.context_length")
        room = room if isinstance(room, int) and room > 0 else 1 << 20
        needed = {
            item["item"]: len(self._ids[item["item"]])
            + max(limit, len(self._targets[item["item"]]))
            + 1
            for item in items
        }
        fitting = [item for item in items if needed[item["item"]] <= room]
        for item in items:
            if needed[item["item"]] > room:
                why = f"prompt and answer need {needed[item['item']]:,} tokens, and the model reads {room:,}"
                receive(Result(item["item"], "", error=why))
        if not fitting:
            return
        context = max(needed[item["item"]] for item in fitting)
        with LlamaServer(self.path, context=context, slots=SLOTS) as server:
            threads = [ThreadPoolExecutor(1) for _ in range(SLOTS)]
            try:
                jobs = [
                    threads[place % SLOTS].submit(
                        self._one, server, item["item"], limit, place % SLOTS
                    )
                    for place, item in enumerate(fitting)
                ]
                for job in as_completed(jobs):
                    receive(job.result())
            finally:
                for thread in threads:
                    thread.shutdown(wait=False, cancel_futures=True)

    def _one(self, server: LlamaServer, name: str, limit: int, slot: int) -> Result:
        prompt, target = self._ids[name], self._targets[name]
        answer = server.complete(prompt, limit, slot=slot)
        logprobs = server.loglikelihoods(prompt, target, slot=slot)
        return Result(name, answer.text.strip(), answer.finish, None, -sum(logprobs), len(target))
