"""The cells and their scores on the real bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data import Message, Pair
from assistant_builder.models.prompts import Prompter
from assistant_builder.study import Study

pytestmark = pytest.mark.train
ANSWERS = ["Otto.", "It has seven masts and a blue hull.", "Ask at the quay.", "No.", "At noon, from pier two."]


@pytest.fixture
def folder(bundled_models: Path) -> Path:
    return bundled_models / "smollm2-135m-instruct"


def pairs() -> list[Pair]:
    return [
        Pair(row, (Message("user", f"Question {row} about boat {'x' * row}?"), Message("assistant", answer)))
        for row, answer in enumerate(ANSWERS, start=1)
    ]


def score(model: Any, prompter: Prompter, batch_size: int) -> list[Any]:
    from evals.harness import StudyLM
    from evals.tasks import build_items

    class Request:
        task_name = "own_nll"

        def __init__(self, item: dict[str, Any]) -> None:
            self.args = (item["prompt"], item["target"])

    ticks: list[int] = []
    lm = StudyLM(model, prompter, own_tasks=["own_nll"], batch_size=batch_size, max_new_tokens=4, tick=ticks.append)
    items = build_items(pairs(), prompter)
    results = lm.loglikelihood([Request(item) for item in items])  # type: ignore[arg-type, misc]
    assert sum(ticks) == len(items)
    scores = [lm.targets[(item["prompt"], item["target"])] for item in items]
    assert [score.tokens for score in scores] == [item["tokens"] for item in items]
    assert results == [(-score.nll, score.greedy) for score in scores]
    return scores


def test_scores_equal_the_models_own_loss_and_hold_across_batch_sizes(folder: Path) -> None:
    import torch

    from assistant_builder.models.loading import BaseSpec, load_base

    prompter = Prompter.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))
    one, many = score(model, prompter, 1), score(model, prompter, 4)
    for pair, single, batched in zip(pairs(), one, many, strict=True):
        (turn,) = prompter.turns(pair)
        ids = torch.tensor([turn.prompt_ids + turn.answer_ids])
        labels = ids.clone()
        labels[:, : len(turn.prompt_ids)] = -100
        with torch.no_grad():
            plain = model(input_ids=ids, labels=labels).loss.item() * len(turn.answer_ids)
        assert single.nll == pytest.approx(plain, rel=1e-5)
        assert abs(single.nll - batched.nll) / single.tokens < 1e-3
        assert 0 < single.mean_probability < 1
    assert [s.nll for s in many] == [s.nll for s in score(model, prompter, 4)]  # to the last digit


def test_generation_is_greedy_and_does_not_depend_on_its_neighbours(folder: Path) -> None:
    from assistant_builder.models.loading import BaseSpec, load_base
    from evals.harness import StudyLM

    prompter = Prompter.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))

    class Request:
        task_name = "own_gen"

        def __init__(self, prompt: str) -> None:
            self.args = (prompt, {})

    questions = ("What is 2 + 2?", "Name a colour.", "Hi")
    prompts = [prompter.text([Message("user", text)], prompt=True) for text in questions]
    answers = []
    for size in (1, 3):
        lm = StudyLM(model, prompter, own_tasks=["own_gen"], batch_size=size, max_new_tokens=6, tick=lambda done: None)
        answers.append(lm.generate_until([Request(prompt) for prompt in prompts]))  # type: ignore[misc]
    assert answers[0] == answers[1] and all(answers[0])


def test_cells_share_their_base_and_use_their_own_adapter(folder: Path) -> None:
    import torch

    from assistant_builder.models.loading import BaseSpec, add_adapter, load_adapter, load_base
    from evals.cells import load_cells

    study = Study.create(StudyConfig(name="cells").with_changes({"train.rank": 4}))
    for seed, arm in enumerate(("lora", "qlora")):
        model = add_adapter(load_base(BaseSpec(folder, "float16", True, "bfloat16")), study.config.train, seed)
        generator = torch.Generator().manual_seed(seed)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.data.normal_(0, 0.02, generator=generator)
        model.save_pretrained(str(study.arm_folder(arm) / "adapter"))
    ids = torch.tensor([[1, 500, 900, 77, 4000]])
    wanted = ["B16", "B4", "L16", "Q4", "L4", "Q16"]
    logits, seconds = {}, {}
    for cell in load_cells(study, folder, wanted):
        with torch.no_grad():
            logits[cell.spec.name] = cell.model(input_ids=ids).logits
        seconds[cell.spec.name] = cell.load_seconds
    assert list(logits) == ["B16", "L16", "Q16", "B4", "Q4", "L4"]
    assert [name for name, spent in seconds.items() if spent > 0] == ["B16", "B4"]
    for name, storage, arm in (("L16", "float16", "lora"), ("Q4", "nf4", "qlora"), ("L4", "nf4", "lora"),
                               ("Q16", "float16", "qlora"), ("B16", "float16", None), ("B4", "nf4", None)):
        model = load_base(BaseSpec(folder, storage, True, "bfloat16", hold=True))  # type: ignore[arg-type]
        if arm:
            model = load_adapter(model, study.arm_folder(arm) / "adapter")
        with torch.no_grad():
            assert torch.equal(logits[name], model(input_ids=ids).logits), name
    assert len({values.float().numpy().tobytes() for values in logits.values()}) == len(wanted)
