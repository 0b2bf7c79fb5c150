"""The model that lm-eval drives: a cell of the study, scored on supervised tokens.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from assistant_builder.models.prompts import Prompter
from assistant_builder.training.batches import IGNORED, LeftPadding, supervised_logits
from evals.blocks import LENGTH, FixedBlocks, WholeRows, batches, padded

Tokens = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt and of the target that follows it."""
ROUND = 32
"""Tokens generated before those answers that have ended are taken out of the batches."""
LONG = 256
"""Tokens beyond which a prompt is read but once."""
MOST_TOKENS = 4096
"""Tokens scored at once; the logits of each are a vocabulary long."""
MOST_REMEMBERED = 16384
"""Tokens of prompts answered at once; keys and values of each are kept."""


@dataclass(frozen=True)
class TargetScore:
    """Teacher-forced score of one reference answer.

    Attributes:
        nll: Summed negative log-likelihood, nats.
        tokens: Tokens it is summed over, the end-of-turn token included.
        mean_probability: Mean probability of the answer's tokens.
        greedy: Whether every token was the likeliest.
    """

    nll: float
    tokens: int
    mean_probability: float
    greedy: bool


class StudyLM(HFLM):
    """An lm-eval model over a loaded cell.

    Requests of the study's own tasks are tokenised as in training and computed in fixed blocks, so that scores do not
    depend on the batch size; those of other tasks go lm-eval's way. ``targets`` keeps the score of every target, and
    ``documents`` counts what other tasks have asked.

    Args:
        model: The cell: a base with or without an active adapter.
        prompter: Tokenizer of the base.
        own_tasks: Names of the study's tasks.
        batch_size: Items scored at once.
        max_new_tokens: Longest generated answer.
        tick: Called after every batch with the kind of work (``likelihood``,
            ``answers``, or ``documents`` of other tasks) and how many items were done; may raise Cancelled.
        fixed_blocks: Off: with the library's kernels as they are, which is how an assistant is served.
    """

    def __init__(
        self, model: Any, prompter: Prompter, *, own_tasks: Sequence[str], batch_size: int, max_new_tokens: int,
        tick: Callable[[str, float], None], fixed_blocks: bool = True,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=prompter.tokenizer, batch_size=batch_size)
        self._prompter = prompter
        self._own_tasks = set(own_tasks)
        self._size = batch_size
        self._max_new_tokens = max_new_tokens
        self._tick = tick
        self._fixed = fixed_blocks
        self._padding = LeftPadding(prompter.pad_id, LENGTH if fixed_blocks else 1)
        self.targets: dict[tuple[str, str], TargetScore] = {}
        self.documents = 0.0
        self._share = 0.0

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Summed log-likelihood of each target, and whether it is the greedy answer."""
        if not self._all_own(requests):
            self._share = _documents(requests) / len(requests)
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        asked = list({request.doc_id: (request.doc["prompt"], request.doc["target"]) for request in requests}.values())
        self.score_targets(asked)
        scores = [self.targets[(request.doc["prompt"], request.doc["target"])] for request in requests]
        # the first request of an item is for the answer, a second one for the white space that belongs to the prompt
        return [(-score.nll, score.greedy) if request.idx == 0 else (0.0, True)
                for request, score in zip(requests, scores, strict=True)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt, without control tokens."""
        if not self._all_own(requests):
            self._share = _documents(requests) / len(requests)
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        return self.answer([request.args[0] for request in requests])

    def score_targets(self, pairs: Sequence[tuple[str, str]]) -> list[TargetScore]:
        """Score each target after its prompt; the scores are also kept in ``targets``."""
        ids = [self._prompter.split_ids(prompt, target) for prompt, target in pairs]
        lengths = [len(prompt) + len(target) for prompt, target in ids]
        for batch in batches(lengths, self._size, alike=self._fixed, most_tokens=MOST_TOKENS):
            for index, score in zip(batch, self._score([ids[index] for index in batch]), strict=True):
                self.targets[pairs[index]] = score
            self._tick("likelihood", len(batch))
        return [self.targets[pair] for pair in pairs]

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """The greedy answer to each prompt.

        Answers to short prompts that have not ended after ``ROUND`` tokens go on in batches of their own, so that a few
        long ones do not keep all others waiting; long prompts would take longer to read again.
        """
        ids = [list(self._prompter.split_ids(prompt, "")[0]) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        waiting = list(range(len(prompts)))
        while waiting:
            unfinished = []
            lengths = [len(ids[index]) + len(answers[index]) for index in waiting]
            for batch in batches(lengths, self._size, alike=self._fixed, most_tokens=MOST_REMEMBERED):
                rows = [waiting[place] for place in batch]
                left = self._max_new_tokens - len(answers[rows[0]])  # the same for all that wait
                length = left if padded(max(lengths[place] for place in batch)) > LONG else min(ROUND, left)
                for index, new in zip(rows, self._generate([ids[i] + answers[i] for i in rows], length), strict=True):
                    answers[index] += new
                    if length < left and len(new) == length and new[-1] not in self._prompter.stop_ids:
                        unfinished.append(index)
                self._tick("answers", len(rows) - len(set(rows) & set(unfinished)))
            waiting = sorted(unfinished)
        return [self._prompter.decode(answer) for answer in answers]

    def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
        """As lm-eval's, counting the documents of other tasks."""
        logits: torch.Tensor = super()._model_call(inps, attn_mask, labels)
        self._count(len(inps))
        return logits

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        """As lm-eval's, counting the documents of other tasks."""
        with WholeRows():
            ids: torch.Tensor = super()._model_generate(context, max_length, stop, **generation_kwargs)
        self._count(len(context))
        return ids

    def _count(self, requests: int) -> None:
        self.documents += requests * self._share
        self._tick("documents", requests * self._share)

    def _all_own(self, requests: Sequence[Instance]) -> bool:
        return all(request.task_name in self._own_tasks for request in requests)

    def _kernels(self, *, generating: bool) -> Any:
        return FixedBlocks(generating=generating) if self._fixed else WholeRows()

    @torch.no_grad()
    def _score(self, pairs: Sequence[Tokens]) -> list[TargetScore]:
        with self._kernels(generating=False):
            logits, targets = supervised_logits(self.model, target_inputs(pairs, self._padding, self.model.device))
        chosen = torch.log_softmax(logits, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1)
        top = logits.argmax(dim=-1) == targets
        scores, at = [], 0
        for _, target in pairs:
            part, at = slice(at, at + len(target)), at + len(target)
            log_probabilities = chosen[part].double()
            scores.append(TargetScore(
                nll=-float(log_probabilities.sum()), tokens=len(target),
                mean_probability=float(log_probabilities.exp().mean()), greedy=bool(top[part].all()),
            ))
        return scores

    @torch.no_grad()
    def _generate(self, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        """At most ``length`` greedy tokens after each prompt, up to and with the one that ends the answer."""
        rows = [{"input_ids": list(prompt), "labels": [IGNORED] * len(prompt)} for prompt in prompts]
        inputs = self._padding(rows)
        longest = inputs["input_ids"].shape[1]
        with self._kernels(generating=True):
            output = self.model.generate(
                input_ids=inputs["input_ids"].to(self.model.device),
                attention_mask=inputs["attention_mask"].to(self.model.device),
                max_new_tokens=length, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None, pad_token_id=self._prompter.pad_id, eos_token_id=self._prompter.stop_ids,
            )
        return [self._until_end(row[longest:].tolist()) for row in output]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self._prompter.stop_ids]
        return ids[: ends[0] + 1] if ends else ids


def _documents(requests: Sequence[Instance]) -> int:
    return len({(request.task_name, request.doc_id) for request in requests})


def target_inputs(pairs: Sequence[Tokens], padding: LeftPadding, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch for :func:`supervised_logits` with every token of the targets supervised."""
    rows = [
        {"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + list(target)} for prompt, target in pairs
    ]
    return {key: value.to(device) for key, value in padding(rows).items()}
