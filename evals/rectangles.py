"""What :mod:`evals.reading` does, for models whose attention cannot be run over rows: in batches of padded sequences.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from assistant_builder.training.batches import IGNORED, LeftPadding, supervised_logits
from evals.blocks import LENGTH, FixedBlocks, WholeRows, batches, padded
from evals.reading import OnAnswers, OnScores, Read, Tokens

ROUND = 32
"""Tokens generated before those answers that have ended are taken out of the batches."""
LONG = 256
"""Tokens beyond which a prompt is read but once."""
MOST_TOKENS = 2048
"""Tokens scored at once; the logits of each are a vocabulary long."""
MOST_REMEMBERED = 16384
"""Tokens of prompts answered at once; keys and values of each are kept."""


class Rectangles:
    """Scores and answers with one model, by transformers' own batches and ``generate``.

    Args:
        model: Any causal language model of transformers.
        pad_id: Token that fills the left.
        stop_ids: Tokens that end an answer.
        size: Most sequences at once.
        fixed: Off: with the library's kernels as they are, so that scores depend on what is computed together.
    """

    def __init__(self, model: Any, pad_id: int, stop_ids: Sequence[int], size: int, *, fixed: bool = True) -> None:
        self._model, self._stop, self._size, self._fixed = model, list(stop_ids), size, fixed
        self._padding = LeftPadding(pad_id, LENGTH if fixed else 1)
        self.seconds = {"nll": 0.0, "generate": 0.0}

    def run(
        self, sequences: Sequence[Tokens], *, longest_answer: int, on_scores: OnScores, on_answers: OnAnswers
    ) -> None:
        """As :meth:`evals.reading.Reader.run`."""
        targeted = [index for index, (_, target) in enumerate(sequences) if target]
        began = time.monotonic()
        for read in self.passes([sequences[index] for index in targeted]):
            chosen = torch.log_softmax(read.logits, dim=-1).gather(1, read.targets.unsqueeze(1)).squeeze(1)
            likeliest = [part.tolist() for part in read.logits.argmax(dim=-1).split(read.counts)]
            scored = dict(zip(read.sequences, zip(chosen.split(read.counts), likeliest, strict=True), strict=True))
            self.seconds["nll"] += time.monotonic() - began
            on_scores({targeted[index]: found for index, found in scored.items()})
            began = time.monotonic()
        if longest_answer:
            self._answer([list(prompt) for prompt, _ in sequences], longest_answer, on_answers)

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[Read]:
        """As :meth:`evals.reading.Reader.passes`."""
        lengths = [sum(map(len, sequence)) for sequence in sequences]
        for batch in batches(lengths, self._size, alike=self._fixed, most_tokens=MOST_TOKENS):
            logits, targets = self._logits([sequences[index] for index in batch])
            yield Read(batch, logits, targets, [len(sequences[index][1]) for index in batch])

    @torch.no_grad()
    def _logits(self, sequences: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [
            {"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + list(target)}
            for prompt, target in sequences
        ]
        inputs = {key: value.to(self._model.device) for key, value in self._padding(rows).items()}
        with self._kernels(generating=False):
            return supervised_logits(self._model, inputs)

    def _answer(self, ids: Sequence[list[int]], longest: int, on_answers: OnAnswers) -> None:
        """Answer in rounds.

        Answers to short prompts that have not ended after ``ROUND`` tokens go on in batches of their own, so that a few
        long ones do not keep all others waiting; long prompts would take longer to read again.
        """
        answers: list[list[int]] = [[] for _ in ids]
        waiting = list(range(len(ids)))
        while waiting:
            unfinished = []
            lengths = [len(ids[index]) + len(answers[index]) for index in waiting]
            for batch in batches(lengths, self._size, alike=self._fixed, most_tokens=MOST_REMEMBERED):
                began = time.monotonic()
                rows = [waiting[place] for place in batch]
                left = longest - len(answers[rows[0]])  # the same for all that wait
                length = left if padded(max(lengths[place] for place in batch)) > LONG else min(ROUND, left)
                for index, new in zip(rows, self._generate([ids[i] + answers[i] for i in rows], length), strict=True):
                    answers[index] += new
                    if length < left and len(new) == length and new[-1] not in self._stop:
                        unfinished.append(index)
                self.seconds["generate"] += time.monotonic() - began
                on_answers({index: answers[index] for index in rows if index not in set(unfinished)})
            waiting = sorted(unfinished)

    @torch.no_grad()
    def _generate(self, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        """At most ``length`` greedy tokens after each prompt, up to and with the one that ends the answer."""
        inputs = self._padding([{"input_ids": list(prompt), "labels": [IGNORED] * len(prompt)} for prompt in prompts])
        longest = inputs["input_ids"].shape[1]
        with self._kernels(generating=True):
            output = self._model.generate(
                input_ids=inputs["input_ids"].to(self._model.device),
                attention_mask=inputs["attention_mask"].to(self._model.device),
                max_new_tokens=length, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None, pad_token_id=self._padding.pad_id, eos_token_id=self._stop,
            )
        return [self._until_end(row[longest:].tolist()) for row in output]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self._stop]
        return ids[: ends[0] + 1] if ends else ids

    def _kernels(self, *, generating: bool) -> Any:
        return FixedBlocks(generating=generating) if self._fixed else WholeRows()
