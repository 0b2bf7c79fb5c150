"""Sample generations: answers of an arm to a few validation questions during training, for the user to read.

They do not affect the training: generation is greedy, without gradients, and preserves the random state. Held-out
questions are never used. Torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Pair
from assistant_builder.models.chat_template import ChatTokenizer

if TYPE_CHECKING:
    from assistant_builder.inference.padded_batch import LeftPadding

MAX_NEW_TOKENS = 48
"""Longest answer in tokens."""
_SPARE_TOKENS = 8
"""Tokens beyond the longest reference after which an answer is cut: an untrained model does not stop."""


@dataclass(frozen=True)
class SampleQuestion:
    """A question that is answered after validations."""

    row: int  # row of the pair in the data file
    question: str
    reference: str
    prompt_ids: tuple[int, ...]
    reference_tokens: int


def choose_samples(
    pairs: Iterable[Pair], prompter: ChatTokenizer, wanted: int, max_length: int
) -> list[SampleQuestion]:
    """``wanted`` questions evenly spaced over the validation pairs, identical for all arms and after a resume.

    Of a conversation the first question is used; prompts of more than ``max_length`` tokens are left out.
    """
    found = []
    for pair in pairs:
        turn = prompter.turns(pair)[0]
        if len(turn.prompt_ids) <= max_length:
            question = next(
                (message.content for message in pair.messages if message.role == "user"), ""
            )
            found.append(
                SampleQuestion(
                    pair.row, question, turn.reference, turn.prompt_ids, len(turn.answer_ids)
                )
            )
    count = min(wanted, len(found))
    return [found[len(found) * index // count] for index in range(count)]


def max_answer_tokens(questions: Sequence[SampleQuestion]) -> int:
    """Most decoding steps of a batch with all questions."""
    return min(
        max(question.reference_tokens for question in questions) + _SPARE_TOKENS, MAX_NEW_TOKENS
    )


def sample_answers(
    model: Any, prompter: ChatTokenizer, padding: LeftPadding, questions: Sequence[SampleQuestion]
) -> list[str]:
    """The greedy answers of a model in training mode to one or more questions; mode and random state are preserved."""
    import torch

    from assistant_builder.inference.padded_batch import IGNORED

    batch = padding(
        [
            {"input_ids": list(question.prompt_ids), "labels": [IGNORED] * len(question.prompt_ids)}
            for question in questions
        ]
    )
    longest = batch["input_ids"].shape[1]
    model.eval()
    # only the own device: by default the state of every GPU is read, but each training process uses one
    with (
        torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
        torch.no_grad(),
    ):
        output = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            max_new_tokens=max_answer_tokens(questions),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=prompter.pad_id,
            eos_token_id=prompter.stop_ids,
        )
    model.train()
    return [
        prompter.decode(
            list(takewhile(lambda token: token not in prompter.stop_ids, row[longest:].tolist()))
        )
        for row in output
    ]
