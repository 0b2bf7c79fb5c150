"""A model in transformers' format: a folder, a name of the catalog or a hub id; torch is imported when it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash
from assistant_builder.config import ModelConfig
from assistant_builder.data import Message, Pair
from assistant_builder.models.base_model import base_ref, fetch_base
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.quantization import UNQUANTIZED
from evals.model_compare.candidates import Candidate, Item, Prompts, Receive, Result
from evals.model_compare.questions import messages_of

_AT_A_TIME = 32  # items between two moments at which results are kept
BATCH = 64
"""Items of a batch; on a CPU scores do not depend on it."""


@dataclass
class TransformersCandidate(Candidate):
    """A model that transformers loads, in 16 bits; no code that comes with a model is run.

    Attributes:
        day: Date for templates that ask for it; None for today.
    """

    day: date | None = None

    def __post_init__(self) -> None:
        self.kind = "transformers"

    @property
    def gives_loss(self) -> bool:
        """By a pass over prompt and reference answer."""
        return True

    @cached_property
    def _model(self) -> ModelConfig:
        return ModelConfig(base=self.given)

    @cached_property
    def folder(self) -> Path:
        """The folder, downloaded if it is on the hub; errors are those of :func:`fetch_base`."""
        return fetch_base(self._model)

    @cached_property
    def _prompter(self) -> ChatTokenizer:
        return ChatTokenizer.load(self.folder, self.day)

    def identity(self) -> dict[str, Any]:
        """Name, size and hash of the weights."""
        weights = sorted(self.folder.glob("*.safetensors"))
        hashes = "".join(f"{path.name} {file_hash(path)}\n" for path in weights)
        return {
            "name": base_ref(self._model).name,
            "bytes": sum(path.stat().st_size for path in weights),
            "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        }

    def prompts(self, items: Sequence[Item]) -> Prompts:
        """The prompts by the folder's tokenizer and template, in a process with limits.

        Raises:
            ModelError: The tokenizer or template of somebody else needs more memory or time, also for an answer.
        """
        process = TemplateProcess(self.folder)
        prompter = LimitedChatTokenizer(process, self.day)
        try:
            talks = {item["item"]: messages_of(dict(item)) for item in items}
            texts = {name: prompter.prompt_text(talk) for name, talk in talks.items()}
            ids = {name: prompter.prompt_ids(talk) for name, talk in talks.items()}
            for item in items:
                prompter.count_tokens(_whole(item))
        finally:
            process.close()
        return Prompts(texts, ids)

    def score(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        """Answer and score in this process."""
        if not items:
            return
        from assistant_builder.inference.packed_batch import supports_packing
        from assistant_builder.inference.prepacked_linear import prepack
        from assistant_builder.models import loading
        from assistant_builder.models.lora_layers import hold_in_compute_dtype
        from evals.lm_eval_model import StudyLM

        spec = loading.base_spec(self._model, self.folder, UNQUANTIZED)
        model: Any = loading.load_base(spec)
        hold_in_compute_dtype(model, loading.DTYPES[spec.compute_dtype], spec.device)
        if supports_packing(model):
            prepack(model, batches=True)
        lm = StudyLM(
            model,
            self._prompter,
            own_tasks=(),
            batch_size=BATCH,
            max_new_tokens=limit,
            tick=lambda kind, count: None,
            answering=True,
        )
        for start in range(0, len(items), _AT_A_TIME):
            part = items[start : start + _AT_A_TIME]
            pairs = [self._rendered(item) for item in part]
            lm.read(pairs, answers=True)
            for item, pair in zip(part, pairs, strict=True):
                score = lm.targets[pair]
                answer, finish = lm.answers[pair[0]], lm.finishes[pair[0]]
                receive(Result(item["item"], answer, finish, None, score.nll, score.tokens))
        del lm, model
        loading.free_memory()

    def _rendered(self, item: Item) -> tuple[str, str]:
        turn = self._prompter.turns(_whole(item))[-1]
        return turn.prompt_text, turn.answer_text


def _whole(item: Item) -> Pair:
    return Pair(0, (*messages_of(dict(item)), Message("assistant", item["reference"])))
