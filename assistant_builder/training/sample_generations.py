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

MAX_NEW_TOKENS = 48  # longest answer in tokens
# tokens beyond the longest reference after which an answer is cut: an untrained model does not stop
_SPARE_TOKENS = 8


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
    samples = []
    for pair in pairs:
        turn = prompter.turns(pair)[0]
        ids, answer = turn.prompt_ids, turn.reference
        if len(ids) <= max_length:
            texts = (message.content for message in pair.messages if message.role == "user")
            sample = SampleQuestion(pair.row, next(texts, ""), answer, ids, len(turn.answer_ids))
            samples.append(sample)
    count = min(wanted, len(samples))
    return [samples[len(samples) * index // count] for index in range(count)]


def max_answer_tokens(questions: Sequence[SampleQuestion]) -> int:
    """Most decoding steps of a batch with all questions."""
    longest = max(question.reference_tokens for question in questions)
    return min(longest + _SPARE_TOKENS, MAX_NEW_TOKENS)


def sample_answers(
    model: Any, prompter: ChatTokenizer, padding: LeftPadding, questions: Sequence[SampleQuestion]
) -> list[str]:
    """The greedy answers of a model in training mode to one or more questions; mode and random state are preserved."""
    import torch

    prompts, limit = [question.prompt_ids for question in questions], max_answer_tokens(questions)
    model.eval()
    # only the own device: by default the state of every GPU is read, but each training process uses one
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        answers = padding.generate(model, prompts, limit, prompter.stop_ids)
    model.train()
    stop = set(prompter.stop_ids)
    ends = [list(takewhile(lambda token: token not in stop, answer)) for answer in answers]
    return [prompter.decode(ids) for ids in ends]
