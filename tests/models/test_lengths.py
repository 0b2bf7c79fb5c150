"""The lengths of training sequences are those of their turns."""

from pathlib import Path

import pytest

from assistant_builder.config import ModelConfig
from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.fetch import local_model_folder
from assistant_builder.models.template_process import measure_lengths


@pytest.fixture(scope="module")
def prompter(model_cache: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model_cache / "models" / "smollm2-135m-instruct")


def pair(*contents: str) -> Pair:
    roles = ("user", "assistant")
    return Pair(1, tuple(Message(roles[at % 2], text) for at, text in enumerate(contents)))


def test_lengths_are_those_of_the_turns(prompter):
    pairs = [
        pair("Who?", "Otto."),
        pair("Hi", "Hello, you.", "And 12?", "\n\n7"),
        pair("ü " * 90, "Short."),
    ]
    lengths = prompter.lengths(pairs)
    turns = [prompter.turns(asked)[-1] for asked in pairs]
    assert lengths == [(len(turn.prompt_ids), len(turn.answer_ids)) for turn in turns]
    found = measure_lengths(prompter, [*pairs, pair("Who?", "word " * 80)])
    assert found.tokens[:3] == tuple(sum(length) for length in lengths)
    assert prompter.lengths([]) == []


def test_a_model_that_is_not_here_is_not_fetched(home):
    assert local_model_folder(ModelConfig()) is None
    assert local_model_folder(ModelConfig(base="nobody/no-such-model")) is None
    assert local_model_folder(ModelConfig(base="no such model")) is None
