"""The KV cache of a conversation, with a random two-layer model."""

import threading
from typing import Any

import pytest

from assistant_builder.inference import generate
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.generate import KVCacheState, generate_tokens
from tests.tiny_models import small_llama

PROMPT = list(range(10, 210))


class Prompter:
    """A tokenizer without a stop token."""

    pad_id, stop_ids = 0, ()


@pytest.fixture(scope="module")
def llama() -> Any:
    return small_llama(num_key_value_heads=2, max_position_embeddings=4096)


def answer(
    model: Any, ids: list[int], tokens: int, limit: int, cache: KVCacheState
) -> tuple[list[int], list[float]]:
    """The first ``tokens`` tokens of an answer of at most ``limit`` tokens, and their certainties."""
    certainties: list[float] = []
    generated = generate_tokens(
        model,
        Prompter(),
        ids,
        limit,
        Sampling(temperature=1.0, seed=3),
        threading.Event(),
        cache,
        certainties,
    )
    found = [token for token, _ in zip(generated, range(tokens), strict=False)]
    generated.close()
    return found, certainties[:tokens]


def test_the_slot_has_the_length_of_the_conversation_and_not_of_the_limit(llama):
    cache, lengths = KVCacheState(), []
    for tokens, limit in ((8, 3000), (100, 3000), (8, 8)):
        answer(llama, PROMPT, tokens, limit, cache)
        lengths.append(cache.slots.length)
    assert lengths == [256, 512, 256]


def test_answers_do_not_depend_on_the_length_of_the_slot(llama, monkeypatch):
    cache = KVCacheState()
    grown = answer(llama, PROMPT, 120, 120, cache)
    follow_up = [*PROMPT, *grown[0][:100], 7, 8, 9]
    more = answer(llama, follow_up, 20, 20, cache)
    shorter = answer(llama, PROMPT[:150], 20, 20, cache)
    monkeypatch.setattr(generate, "_SLOT_MULTIPLE", 2048)
    assert answer(llama, PROMPT, 120, 120, KVCacheState()) == grown
    fresh = KVCacheState()
    answer(llama, PROMPT, 120, 120, fresh)
    assert answer(llama, follow_up, 20, 20, fresh) == more
    assert answer(llama, PROMPT[:150], 20, 20, fresh) == shorter
