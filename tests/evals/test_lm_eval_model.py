"""Scores and answers of a model of two layers, and of the first layers of the bundled model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from assistant_builder.data import Message, Pair
from assistant_builder.inference import batch_scorer
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import BaseSpec, load_base
from evals import lm_eval_model
from evals.lm_eval_model import StudyLM
from evals.tasks.held_out import build_items
from tests.export.tiny import tiny_base
from tests.texts import parts

pytestmark = pytest.mark.train
ANSWERS = parts(
    """
    Otto. | It has seven masts and a blue hull. | Ask at the quay. | No. | At noon, from pier two.
    """
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def pairs() -> list[Pair]:
    return [
        Pair(
            row,
            (
                Message("user", f"Question {row} about boat {'x' * row}?"),
                Message("assistant", answer),
            ),
        )
        for row, answer in enumerate(ANSWERS, start=1)
    ]


def score(model: Any, prompter: ChatTokenizer, batch_size: int) -> list[Any]:
    class Request:
        task_name, idx = "own_nll", 0

        def __init__(self, item: dict[str, Any]) -> None:
            self.doc, self.doc_id = item, item["item"]

    ticks: list[float] = []
    lm = StudyLM(
        model,
        prompter,
        own_tasks=["own_nll"],
        batch_size=batch_size,
        max_new_tokens=4,
        tick=lambda kind, items: ticks.append(items),
    )
    items = build_items(pairs(), prompter)
    results = lm.loglikelihood([Request(item) for item in items])
    assert sum(ticks) == len(items)
    scores = [lm.targets[(item["prompt"], item["target"])] for item in items]
    assert [score.tokens for score in scores] == [item["tokens"] for item in items]
    assert results == [(-score.nll, score.greedy) for score in scores]
    return scores


def test_scores_equal_the_models_own_loss_and_hold_across_batch_sizes(folder):
    prompter = ChatTokenizer.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))
    one, many = score(model, prompter, 1), score(model, prompter, 4)
    for pair, single, batched in zip(pairs(), one, many, strict=True):
        (turn,) = prompter.turns(pair)
        ids = torch.tensor([turn.prompt_ids + turn.answer_ids])
        labels = ids.clone()
        labels[:, : len(turn.prompt_ids)] = -100
        with torch.no_grad():
            read = model(input_ids=ids, labels=labels)
        plain = read.loss.item() * len(turn.answer_ids)
        likeliest = read.logits[0, len(turn.prompt_ids) - 1 : -1].argmax(dim=-1).tolist()
        assert single.nll == pytest.approx(plain, rel=1e-5)
        assert single.greedy == batched.greedy == (likeliest == list(turn.answer_ids))
        assert abs(single.nll - batched.nll) / single.tokens < 1e-3
        assert 0 < single.mean_probability < 1
    assert [s.nll for s in many] == [s.nll for s in score(model, prompter, 4)]  # to the last digit


def test_scores_and_answers_are_the_same_to_the_last_digit_in_batches_of_any_size(
    short_base, compute_dtype
):
    prompter = ChatTokenizer.load(short_base)
    model = load_base(BaseSpec(short_base, "float16", True, compute_dtype, hold=True))
    items = build_items(
        [
            Pair(
                row,
                (
                    Message("user", "Where do the ferries go? " * (row % 4)),
                    Message("assistant", "North. " * row),
                ),
            )
            for row in range(1, 12)
        ],
        prompter,
    )
    targets = [(item["prompt"], item["target"]) for item in items]
    found = []
    for size in (1, 3, 11):
        lm = StudyLM(
            model,
            prompter,
            own_tasks=[],
            batch_size=size,
            max_new_tokens=6,
            tick=lambda kind, items: None,
        )
        found.append((lm.score_targets(targets), lm.answer([prompt for prompt, _ in targets])))
    assert found[0] == found[1] == found[2]


def greedy(model: Any, prompter: ChatTokenizer, prompt: str, length: int) -> str:
    """What transformers generates after one prompt."""
    ids = torch.tensor([prompter.split_ids(prompt, "")[0]])
    with torch.no_grad():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=prompter.stop_ids,
            pad_token_id=prompter.pad_id,
        )
    return prompter.decode(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_answers_are_those_of_transformers_one_at_a_time(folder, monkeypatch, way):
    monkeypatch.setattr(lm_eval_model, "supports_packing", lambda model: way == "packed")
    monkeypatch.setattr(batch_scorer, "ROUND", 7)
    prompter = ChatTokenizer.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))
    questions = tuple(
        parts(
            """
        What is 2 + 2? | Name the capital of France in one word. | Hi | Count from one to thirty.
        """
        )
    )
    prompts = [prompter.text([Message("user", text)], prompt=True) for text in questions]
    done: list[float] = []
    lm = lm_eval_model.StudyLM(
        model,
        prompter,
        own_tasks=[],
        batch_size=3,
        max_new_tokens=16,
        tick=lambda kind, items: done.append(items if kind == "answers" else 0),
    )
    assert lm.answer(prompts) == [greedy(model, prompter, prompt, 16) for prompt in prompts]
    assert sum(done) == len(prompts)


def test_the_librarys_own_kernels_agree_but_for_rounding(folder):
    prompter = ChatTokenizer.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))
    prompt = prompter.text([Message("user", "Name the days of the week.")], prompt=True)
    pairs = [(prompt, "Monday, Tuesday and so on.<|im_end|>"), (prompt, "No.<|im_end|>")]
    scores = [
        StudyLM(
            model,
            prompter,
            own_tasks=[],
            batch_size=2,
            max_new_tokens=6,
            tick=lambda kind, items: None,
            fixed_blocks=fixed,
        ).score_targets(pairs)
        for fixed in (True, False)
    ]
    for fixed, plain in zip(*scores, strict=True):
        assert fixed.nll == pytest.approx(plain.nll, rel=1e-4)
