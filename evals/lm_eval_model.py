"""A cell of the study as a model for lm-eval; the module imports torch, so only worker processes import it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from assistant_builder.inference.batch_invariant import ContiguousLinear
from assistant_builder.inference.batch_scorer import (
    BatchScorer,
    PaddedBatchScorer,
    Scored,
    ScoredChunk,
)
from assistant_builder.inference.packed_batch import supports_packing
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.decline import FIRST_TOKENS

PromptAndTarget = tuple[str, str]
Observer = Callable[[Sequence[PromptAndTarget], ScoredChunk, torch.Tensor], None]
"""Callback with prompts and targets of all sequences of a cell, a pass, and the log-softmax of its logits."""


@dataclass(frozen=True)
class ReferenceScore:
    """Teacher-forced score of one reference answer: summed negative log-likelihood in nats, over all its tokens.

    ``greedy`` is whether every token was the likeliest.
    """

    nll: float
    tokens: int
    mean_probability: float
    greedy: bool


class StudyLM(HFLM):
    """An lm-eval model for a loaded cell.

    Requests of the study's own tasks are tokenized as in training and computed batch-invariantly; requests of other
    tasks use lm-eval's own code. ``targets`` has the score of every target, ``answers`` the answer to every prompt,
    ``finishes`` whether it ended (``stop``) or reached ``max_new_tokens`` (``length``), ``seconds`` their times, and
    ``documents`` the number of documents of other tasks.

    Args:
        model: The cell, a base with or without an active adapter.
        prompter: Tokenizer of the base.
        own_tasks: Names of the study's tasks.
        batch_size: Maximum batch size.
        max_new_tokens: Maximum length of an answer.
        tick: Called after every batch with the kind of work (``likelihood``, ``answers``, or ``documents`` of other
            tasks) and the number of finished items; may raise Cancelled.
        fixed_blocks: Whether scores are independent of the batch; False computes as in serving.
        answering: Whether to generate the answers in the pass of the likelihoods, so that prompts are computed once.
        certain: Whether ``beginnings`` gets the first tokens of each answer, as text and with their log-probabilities,
            by which a grounded assistant decides to decline.
        observer: Called with each pass over prompts and targets.
    """

    def __init__(
        self,
        model: Any,
        prompter: ChatTokenizer,
        *,
        own_tasks: Sequence[str],
        batch_size: int,
        max_new_tokens: int,
        tick: Callable[[str, float], None],
        fixed_blocks: bool = True,
        answering: bool = False,
        certain: bool = False,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=prompter.tokenizer, batch_size=batch_size)
        self._prompter = prompter
        self._own_tasks, self._answering, self._tick = set(own_tasks), answering, tick
        self._max_new_tokens = max_new_tokens
        self._reader = reader(model, prompter, batch_size, fixed=fixed_blocks)
        self.targets: dict[tuple[str, str], ReferenceScore] = {}
        self.answers: dict[str, str] = {}
        self.finishes: dict[str, str] = {}
        self._certain, self._observer = certain, observer
        self.beginnings: dict[str, tuple[str, list[float]]] = {}
        self.documents = self._share = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the likelihoods (``nll``) and answers (``generate``) of the study's own tasks."""
        return self._reader.seconds

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Summed log-likelihood of each target, and whether it is the greedy answer."""
        if not self._all_own(requests):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        pairs = [(request.doc["prompt"], request.doc["target"]) for request in requests]
        by_item = {request.doc_id: pair for request, pair in zip(requests, pairs, strict=True)}
        self.read(list(by_item.values()), answers=self._answering)
        # the first request of an item is the answer, the second the white space at the end of the prompt
        return [
            (-self.targets[pair].nll, self.targets[pair].greedy)
            if request.idx == 0
            else (0.0, True)
            for request, pair in zip(requests, pairs, strict=True)
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt without control tokens."""
        if not self._all_own(requests):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        return self.answer([request.args[0] for request in requests])

    def score_targets(self, pairs: Sequence[tuple[str, str]]) -> list[ReferenceScore]:
        """Score each target given its prompt; ``targets`` stores the scores."""
        self.read(pairs, answers=False)
        return [self.targets[pair] for pair in pairs]

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """The greedy answer to each prompt, cached in ``answers``."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self.answers))
        if new:
            self.read([(prompt, "") for prompt in new], answers=True)
        return [self.answers[prompt] for prompt in prompts]

    def read(self, pairs: Sequence[tuple[str, str]], *, answers: bool) -> None:
        """Score targets given their prompts, unless empty, and also answer the prompts if ``answers`` is set."""
        scored = any(target for _, target in pairs)
        on_read = partial(self._observer, pairs) if self._observer is not None and scored else None
        ids = [self._prompter.split_ids(prompt, target) for prompt, target in pairs]

        def on_scores(scores: dict[int, Scored]) -> None:
            for index, score in scores.items():
                target, chosen, likeliest = ids[index][1], score[0].double(), score[1]
                self.targets[pairs[index]] = ReferenceScore(
                    nll=-float(chosen.sum()),
                    tokens=len(target),
                    mean_probability=float(chosen.exp().mean()),
                    greedy=list(likeliest) == list(target),
                )
            self._tick("likelihood", len(scores))

        first: dict[str, str] = {}

        def on_answers(found: dict[int, list[int]]) -> None:
            for index, answer in found.items():
                prompt, ended = pairs[index][0], answer[-1] in self._prompter.stop_ids
                self.answers[prompt] = self._prompter.decode(answer)
                self.finishes[prompt] = "stop" if ended else "length"
                first[prompt] = self._prompter.decode(answer[:FIRST_TOKENS])
            self._tick("answers", len(found))

        self._reader.run(
            ids,
            max_new_tokens=self._max_new_tokens if answers else 0,
            on_scores=on_scores,
            on_answers=on_answers,
            on_read=on_read,
            room=self._max_new_tokens if self._answering else 0,
        )
        if answers and self._certain:
            for index, certainties in self._reader.certainties.items():
                self.beginnings[pairs[index][0]] = first[pairs[index][0]], certainties

    def _model_call(
        self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None
    ) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, attn_mask, labels)
        self._count(len(inps))
        return logits

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        with ContiguousLinear():
            ids: torch.Tensor = super()._model_generate(
                context, max_length, stop, **generation_kwargs
            )
        self._count(len(context))
        return ids

    def _count(self, requests: int) -> None:
        self.documents += requests * self._share
        self._tick("documents", requests * self._share)

    def _all_own(self, requests: Sequence[Instance]) -> bool:
        """Whether all requests are of the study's tasks; else a request counts as a share of a document."""
        if all(request.task_name in self._own_tasks for request in requests):
            return True
        documents = {(request.task_name, request.doc_id) for request in requests}
        self._share = len(documents) / len(requests)
        return False


def reader(
    model: Any, prompter: ChatTokenizer, size: int, *, fixed: bool = True
) -> BatchScorer | PaddedBatchScorer:
    """The scorer for a model: packed batches if its attention supports them, otherwise padded batches.

    With ``fixed``, scores are independent of the batch; without, they are those of the batches of transformers.
    """
    if fixed and supports_packing(model):
        return BatchScorer(model, prompter.pad_id, prompter.stop_ids, size)
    return PaddedBatchScorer(model, prompter.pad_id, prompter.stop_ids, size, fixed=fixed)
