"""Masks of a GPU are those of transformers, and steps use the adapters that an optimizer of a GPU has written."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.models import loading
from assistant_builder.models.lora_layers import train_through_rounding
from assistant_builder.training import collate
from assistant_builder.training.gpu import ATTENTION, apply_gpu_kernels
from assistant_builder.training.trainer import TwinTrainer
from tests.tiny_models import sizes_of
from tests.training import test_determinism
from tests.training.test_cpu_kernels import batch
from tests.training.test_determinism import trainer

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]


@pytest.mark.parametrize("optimizer", ["fused", "bitsandbytes"])
@pytest.mark.parametrize("rounds", [False, True])
def test_steps_use_the_adapters_of_the_last_step(tmp_path, monkeypatch, optimizer, rounds):
    """Optimizers of GPUs write to the parameters without a new version, by which casts and rounded weights are kept."""
    if rounds:

        def add_adapter(*given: Any) -> Any:
            model = loading.add_adapter(*given)
            train_through_rounding(model, "Q8_0")
            return model

        monkeypatch.setattr(test_determinism, "add_adapter", add_adapter)
    if optimizer == "bitsandbytes":
        import bitsandbytes

        monkeypatch.setattr(
            TwinTrainer,
            "create_optimizer",
            lambda self, *_: (
                setattr(
                    self,
                    "optimizer",
                    bitsandbytes.optim.AdamW32bit(
                        [value for value in self.model.parameters() if value.requires_grad],
                        lr=0.003,
                    ),
                )
                or self.optimizer
            ),
        )
    losses = {}
    for kernels in ("fused", "plain"):
        made = trainer(
            tmp_path / kernels,
            "cuda",
            **{
                "train.max_steps": 6,
                "train.dropout": 0.0,
                "train.kernels": kernels,
                "train.learning_rate": 0.003,
            },
        )
        made.run()
        losses[kernels] = [
            event["loss"]
            for event in read_jsonl(tmp_path / kernels / "metrics.jsonl")
            if event["event"] == "step"
        ]
    if not rounds:  # each step of the plain layers casts the parameters themselves
        assert losses["fused"] == pytest.approx(losses["plain"], rel=1e-4)
    made = trainer(tmp_path / "again", "cuda", **{"train.max_steps": 6, "train.dropout": 0.0})
    fresh = [value for value in made.model.parameters() if value.requires_grad]
    before = [value._version for value in fresh]
    made.run()
    assert all(value._version >= old + 6 for value, old in zip(fresh, before, strict=True))
    assert losses["fused"][-1] < losses["fused"][0]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])  # and with windows
@pytest.mark.parametrize("lengths", [(12, 20, 19), (24, 24, 24), (40,)])
def test_masks_are_those_of_transformers(kind, lengths):
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes_of(kind))
    ).eval()
    model.get_base_model = lambda: model
    masks: list[Any] = []
    layer = model.model.layers[0].self_attn
    layer.register_forward_pre_hook(
        lambda _, args, given: masks.append(given["attention_mask"]), with_kwargs=True
    )
    inputs = batch(lengths)
    with torch.no_grad():
        wanted = collate.summed_nll(model, inputs)
        apply_gpu_kernels(model, "fused", sharded=True)
        assert model.config._attn_implementation == ATTENTION
        found = collate.summed_nll(model, inputs)
    assert torch.equal(found, wanted)
    assert (masks[0] is None) == (masks[1] is None) and (masks[0] is None or torch.equal(*masks))
