"""A few validation questions that each arm answers as it trains, so that one can read how it gets on.

What is shown must not change what is trained: the answers are greedy, computed without gradients, and leave the random
state as it was. Held-out questions are never asked.

Imports torch inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Pair
from assistant_builder.models.chat_template import ChatTokenizer

if TYPE_CHECKING:
    from assistant_builder.inference.padded_batch import LeftPadding

MAX_NEW_TOKENS = 48
"""Most tokens of an answer."""
_SPARE_TOKENS = 8
"""How much longer than the longest reference an answer may grow before it is cut: an untrained model never ends."""


@dataclass(frozen=True)
class SampleQuestion:
    """A question that is asked at every validation.

    Attributes:
        row: Row of the pair in the data file.
        question: The question as text.
        reference: The answer that the data gives.
        prompt_ids: The prompt's tokens.
        reference_tokens: Tokens of the reference.
    """

    row: int
    question: str
    reference: str
    prompt_ids: tuple[int, ...]
    reference_tokens: int


def choose_samples(pairs: Iterable[Pair], prompter: ChatTokenizer, wanted: int, max_length: int) -> list[SampleQuestion]:
    """Questions spread evenly over the validation pairs, the same ones for both arms and after every pause.

    Args:
        pairs: The validation pairs; of a conversation the first question is asked.
        prompter: Tokenizer of the base.
        wanted: How many, at most.
        max_length: Longest prompt in tokens.
    """
    found = []
    for pair in pairs:
        turn = prompter.turns(pair)[0]
        if len(turn.prompt_ids) <= max_length:
            question = next((message.content for message in pair.messages if message.role == "user"), "")
            found.append(
                SampleQuestion(pair.row, question, turn.reference, turn.prompt_ids, len(turn.answer_ids))
            )
    count = min(wanted, len(found))
    return [found[len(found) * index // count] for index in range(count)]


def written_tokens(questions: Sequence[SampleQuestion]) -> int:
    """Tokens that are written at most, one after the other, to answer all questions at once."""
    return min(max(asked.reference_tokens for asked in questions) + _SPARE_TOKENS, MAX_NEW_TOKENS)


def sample_answers(
    model: Any, prompter: ChatTokenizer, padding: LeftPadding, questions: Sequence[SampleQuestion]
) -> list[str]:
    """The greedy answers of a model that is being trained; it is left as it was.

    Args:
        model: Any causal language model of transformers, in training mode.
        prompter: Its tokenizer.
        padding: Collates prompts.
        questions: At least one.
    """
    import torch

    from assistant_builder.inference.padded_batch import IGNORED

    rows = [{"input_ids": list(asked.prompt_ids), "labels": [IGNORED] * len(asked.prompt_ids)} for asked in questions]
    batch = padding(rows)
    longest = batch["input_ids"].shape[1]
    model.eval()
    # its own device alone: by default the state of every GPU is read, and a process that shares a training has but one
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), torch.no_grad():
        output = model.generate(
            input_ids=batch["input_ids"].to(model.device), attention_mask=batch["attention_mask"].to(model.device),
            max_new_tokens=written_tokens(questions), do_sample=False, num_beams=1, temperature=None, top_p=None,
            top_k=None, pad_token_id=prompter.pad_id, eos_token_id=prompter.stop_ids,
        )
    model.train()
    return [prompter.decode(_until_end(row[longest:].tolist(), prompter.stop_ids)) for row in output]


def _until_end(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in stop_ids), ids)
