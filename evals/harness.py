"""The model that lm-eval drives: a cell of the study, scored on supervised tokens in batches that never change.

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

    Requests of the study's own tasks are tokenised as in training and scored in length-sorted batches of a fixed size,
    so that a rerun gives the same digits; those of other tasks go lm-eval's way.

    Args:
        model: The cell: a base with or without an active adapter.
        prompter: Tokenizer of the base.
        own_tasks: Names of the study's tasks.
        batch_size: Items scored at once.
        max_new_tokens: Longest generated answer.
        tick: Called with the number of items done after every batch; may raise Cancelled.
    """

    def __init__(
        self, model: Any, prompter: Prompter, *, own_tasks: Sequence[str], batch_size: int, max_new_tokens: int,
        tick: Callable[[int], None],
    ) -> None:
        super().__init__(pretrained=model, tokenizer=prompter.tokenizer, batch_size=batch_size)
        self._prompter = prompter
        self._own_tasks = set(own_tasks)
        self._size = batch_size
        self._max_new_tokens = max_new_tokens
        self._tick = tick
        self.targets: dict[tuple[str, str], TargetScore] = {}

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Summed log-likelihood of each target, and whether it is the greedy answer."""
        if not self._all_own(requests):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        arguments = [request.args for request in requests]
        ids = [self._prompter.split_ids(prompt, target) for prompt, target in arguments]
        for batch in self._batches([len(prompt) + len(target) for prompt, target in ids]):
            scores = self._score([ids[index] for index in batch])
            for index, score in zip(batch, scores, strict=True):
                self.targets[arguments[index]] = score
            self._tick(len(batch))
        return [(-self.targets[pair].nll, self.targets[pair].greedy) for pair in arguments]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt, without control tokens."""
        if not self._all_own(requests):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        prompts = [self._prompter.split_ids(request.args[0], "")[0] for request in requests]
        answers = [""] * len(prompts)
        for batch in self._batches([len(prompt) for prompt in prompts]):
            texts = self._generate([prompts[index] for index in batch])
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            self._tick(len(batch))
        return answers

    def _all_own(self, requests: Sequence[Instance]) -> bool:
        return all(request.task_name in self._own_tasks for request in requests)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
        return [order[start : start + self._size] for start in range(0, len(order), self._size)]

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TargetScore]:
        rows = [
            {"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + list(target)}
            for prompt, target in pairs
        ]
        inputs = {key: value.to(self.model.device) for key, value in LeftPadding(self._prompter.pad_id)(rows).items()}
        logits, targets = supervised_logits(self.model, inputs)
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
    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        rows = [{"input_ids": list(prompt), "labels": [IGNORED] * len(prompt)} for prompt in prompts]
        inputs = LeftPadding(self._prompter.pad_id)(rows)
        longest = inputs["input_ids"].shape[1]
        output = self.model.generate(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
            max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
            pad_token_id=self._prompter.pad_id, eos_token_id=self._prompter.stop_ids,
        )
        return [self._prompter.decode(row[longest:].tolist()) for row in output]
