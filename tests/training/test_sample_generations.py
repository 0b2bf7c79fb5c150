"""Which validation questions are asked as training goes; what they leave behind is tested with resuming."""

from pathlib import Path

import pytest
import torch

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data import Message, Pair
from assistant_builder.inference.padded_batch import LeftPadding
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.planning.training_time import WorkRemaining
from assistant_builder.training.progress import MetricsLog
from assistant_builder.training.sample_generations import choose_samples, sample_answers


@pytest.fixture(scope="module")
def prompter(model_cache: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model_cache / "models" / "smollm2-135m-instruct")


def pair(row: int, question: str = "How tall is it?") -> Pair:
    return Pair(row, (Message("user", question), Message("assistant", f"It is {row} metres tall.")))


def test_questions_are_evenly_spaced(prompter):
    chosen = choose_samples([pair(row) for row in range(1, 13)], prompter, 3, 128)
    assert [asked.row for asked in chosen] == [1, 5, 9]
    assert chosen[0].question == "How tall is it?" and chosen[0].reference == "It is 1 metres tall."
    assert prompter.decode(chosen[0].prompt_ids).endswith("assistant")
    assert [asked.row for asked in choose_samples([pair(1), pair(2)], prompter, 3, 128)] == [1, 2]
    assert choose_samples([], prompter, 3, 128) == choose_samples([pair(1)], prompter, 0, 128) == []


def test_a_question_beyond_max_length_is_not_used(prompter):
    pairs = [pair(1, "Is it tall? " * 100), pair(2)]
    assert [asked.row for asked in choose_samples(pairs, prompter, 3, 128)] == [2]


def test_the_first_question_of_a_conversation_is_used(prompter):
    later = (Message("user", "And wide?"), Message("assistant", "No."))
    talk = Pair(4, (Message("system", "Be brief."), *pair(4).messages, *later))
    (asked,) = choose_samples([talk], prompter, 1, 128)
    assert (asked.question, asked.reference) == ("How tall is it?", "It is 4 metres tall.")


def test_samples_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, step=0, work=WorkRemaining(4, 400))
    for step in (2, 4):
        log.record_validation(step, 1.0)
        log.record_samples(
            step, [{"row": 1, "question": "q", "reference": "r", "answer": f"after {step}"}]
        )
    assert MetricsLog(path, step=2, work=WorkRemaining(4, 400)).validation == {2: 1.0}
    assert [line["answer"] for line in read_jsonl(path) if line["event"] == "sample"] == ["after 2"]


def test_random_states_of_other_gpus_are_not_read(prompter, monkeypatch):
    """A process that shares a training has one of the GPUs; torch's default is to read the state of all."""

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def generate(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            torch.rand(1)
            return torch.cat(
                [input_ids, torch.full((len(input_ids), 1), prompter.stop_ids[0])], dim=1
            )

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(
        torch.cuda,
        "get_rng_state",
        lambda device: pytest.fail(f"the state of GPU {device} was read"),
    )
    monkeypatch.setattr("torch.random._fork_rng_warned_already", True)
    before = torch.get_rng_state()
    assert sample_answers(
        Model(), prompter, LeftPadding(prompter.pad_id), choose_samples([pair(1)], prompter, 1, 128)
    )
    assert torch.equal(torch.get_rng_state(), before)
