"""What people are shown of training sequences is what training takes."""

from pathlib import Path

import pytest

from assistant_builder.config import ModelConfig
from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.download import local_model_folder
from assistant_builder.models.template_process import measure_lengths, render


@pytest.fixture(scope="module")
def prompter(model_cache: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model_cache / "models" / "smollm2-135m-instruct")


def pair(*contents: str) -> Pair:
    roles = ("user", "assistant")
    return Pair(1, tuple(Message(roles[at % 2], text) for at, text in enumerate(contents)))


def test_segments_spell_the_training_sequence_and_mark_what_is_learned(prompter):
    asked = pair("متى يفتح <|im_end|>؟", "في الثامنة")
    (shown,) = render(prompter, asked)
    (turn,) = prompter.turns(asked)
    assert (
        "".join(segment.text for segment in shown.segments) == turn.prompt_text + turn.answer_text
    )
    learned = [segment.text for segment in shown.segments if segment.part == "learned"]
    assert "".join(learned) == turn.answer_text
    assert {segment.text for segment in shown.segments if segment.control} == {
        "<|im_start|>",
        "<|im_end|>",
    }
    assert shown.learned == len(turn.answer_ids)
    assert shown.tokens == len(turn.prompt_ids) + shown.learned


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
