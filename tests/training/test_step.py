"""An optimizer step: its loss is the mean over all supervised tokens, and adapters stay in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.training import trainer as module
from assistant_builder.training.trainer import TwinTrainer
from tests.training.test_determinism import trainer


def trained(folder: Path, micro: int) -> tuple[float, dict[str, Any], float]:
    """Loss and adapters of one step on four pairs in micro-batches, and the loss that whole logits give before it."""
    made = trainer(
        folder,
        "cpu",
        **{
            "train.max_steps": 1,
            "train.batch_size": 4,
            "train.micro_batch_size": micro,
            "train.dropout": 0.0,
        },
    )
    total, tokens = 0.0, 0
    with torch.no_grad():
        for example in made.plan.train_examples:
            ids, supervised = (
                torch.tensor(example.input_ids),
                torch.tensor(example.supervised)[1:].bool(),
            )
            likely = made.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
            total -= likely.gather(1, ids[1:, None])[:, 0][supervised].sum().item()
            tokens += int(supervised.sum())
    made.run()
    adapters = {
        name: value.detach().clone()
        for name, value in made.model.named_parameters()
        if value.requires_grad
    }
    return read_jsonl(folder / "metrics.jsonl")[0]["loss"], adapters, total / tokens


def test_micro_batches_do_not_change_the_step(tmp_path):
    loss, adapters, expected = trained(tmp_path / "whole", 4)
    assert loss == pytest.approx(expected, rel=1e-5)
    for micro in (1, 2):
        again, others, _ = trained(tmp_path / str(micro), micro)
        assert again == pytest.approx(expected, rel=1e-5)
        assert all(
            torch.allclose(value, others[name], atol=1e-6) for name, value in adapters.items()
        )


@pytest.mark.parametrize("storage", ["float16", "nf4", "int8"])
def test_adapters_stay_in_float32_to_the_last_bit(tmp_path, storage, monkeypatch):
    started: dict[str, Any] = {}
    arguments = module.sft_arguments

    def spied(plan: Any, root: Path, model: Any) -> Any:
        started.update(
            {
                name: value.detach().clone()
                for name, value in model.named_parameters()
                if value.requires_grad
            }
        )
        return arguments(plan, root, model)

    monkeypatch.setattr(module, "sft_arguments", spied)
    made = trainer(tmp_path, "cpu", storage=storage, dtype="bfloat16")
    found = {name: value for name, value in made.model.named_parameters() if value.requires_grad}
    assert found.keys() == started.keys() and len(found) > 0
    for name, value in found.items():
        assert value.dtype == torch.float32 and torch.equal(value, started[name]), name


def test_every_micro_batch_has_dropout_of_its_own_that_a_second_run_repeats(tmp_path, monkeypatch):
    seeds: list[int] = []
    compute_loss = TwinTrainer.compute_loss

    def spied(self: TwinTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, *args, **kwargs)
        seeds.append(torch.initial_seed())
        return loss

    monkeypatch.setattr(TwinTrainer, "compute_loss", spied)
    for run in ("first", "second"):
        trainer(tmp_path / run, "cpu", **{"train.micro_batch_size": 1}).run()
    assert len(seeds) == 2 * 2 * 2 and seeds[:4] == seeds[4:] and len(set(seeds[:4])) == 4
