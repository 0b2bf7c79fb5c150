"""Training through the rounding of a format: what the model computes is the file, and A and B get LoRA's gradient."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.models.lora_layers import (
    ADAPTER_LAYERS,
    CastOnUseLinear,
    RoundedWeight,
    merge,
    round_linear,
    train_through_rounding,
)
from assistant_builder.models.rounding import rounded
from assistant_builder.planning.hardware import Machine
from assistant_builder.planning.plan import plan_study
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study
from assistant_builder.study.steps import needed_before, steps_of
from assistant_builder.training import cpu_kernels
from assistant_builder.training.cpu_kernels import fuse_cpu_kernels
from assistant_builder.training.sft_config import twin
from tests.export.tiny import tiny_base
from tests.tiny_models import as_if_trained, save_model
from tests.training.test_cpu_kernels import batch, fused, plain
from tests.training.test_resume import start, wait_for

pytestmark = pytest.mark.train
KINDS = ("Q4_0", "Q8_0", "NF4")
TRAIN = TrainConfig(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(
    scope="module", params=["llama", "qwen2"]
)  # tied, and with biases and a head of its own
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def model_of(folder: Path, kind: str | None, dtype: str = "float32", dropout: float = 0.0) -> Any:
    """A model with an adapter, which is trained through the rounding of a format."""
    train = TRAIN.model_copy(update={"dropout": dropout})
    model = add_adapter(load_base(BaseSpec(folder, "float16", True, dtype)), train, 0)
    as_if_trained(model, 0.05)
    if kind is not None:
        train_through_rounding(model, kind)
    return model.train()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 43)[None]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_computes_what_its_merged_and_rounded_file_does(folder, kind):
    through, merged, unrounded = (
        model_of(folder, kind),
        merge(model_of(folder, None)),
        logits(model_of(folder, None)),
    )
    round_linear(merged, kind, torch.float32)
    wanted = logits(merged)
    assert (wanted - unrounded).abs().max() > 1e-3, "rounding changes nothing"
    assert torch.allclose(logits(through), wanted, atol=1e-5)
    fuse_cpu_kernels(through, torch.float32)
    assert torch.allclose(logits(through), wanted, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_fused_step_has_the_losses_and_gradients_of_the_plain_one(folder, dropout, monkeypatch):
    def dropped(count: int, p: float) -> Any:  # the same positions for every layer and both ways
        return torch.arange(0, count, 3)

    def drop(self: nn.Dropout, x: Any) -> Any:
        if not self.training:
            return x
        scaled = (x / (1 - self.p)).reshape(-1).clone()
        return scaled.index_fill(0, dropped(x.numel(), self.p), 0).view(x.shape)

    monkeypatch.setattr(cpu_kernels, "sample_dropout_indices", dropped)
    monkeypatch.setattr(nn.Dropout, "forward", drop)
    model = model_of(folder, "Q4_0", dropout=dropout)
    wanted, gradients = plain(model, batch())
    loss, ours = fused(model, batch(), torch.float32)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert gradients.norm() > 0 and (ours - gradients).norm() / gradients.norm() < 1e-4


def test_the_gradient_of_one_layer_is_that_of_lora():
    """For one layer and a loss that is linear in its output, rounding changes the output, and not the gradient."""
    found = []
    for kind in (None, "Q4_0"):
        layer, along = one_layer(kind), torch.ones(48)
        x = torch.randn(20, 64, generator=torch.Generator().manual_seed(5))
        output = layer(x)
        (output @ along).sum().backward()
        found.append(
            (
                output.detach(),
                layer.lora_A["default"].weight.grad,
                layer.lora_B["default"].weight.grad,
            )
        )
    assert not torch.allclose(found[0][0], found[1][0], atol=1e-3)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert torch.allclose(found[0][2], found[1][2], atol=1e-5)


def test_a_changed_adapter_is_rounded_again():
    layer, x = one_layer("Q4_0"), torch.randn(3, 64)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        layer.lora_B["default"].weight.mul_(1.5)
        after = layer(x)
    assert not torch.equal(after, before)
    merged = layer.base_layer.weight.float() + layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    assert torch.allclose(after, x @ rounded(merged.half(), "Q4_0").T, atol=1e-5)


def one_layer(kind: str | None) -> Any:
    torch.manual_seed(2)
    base = nn.Sequential(nn.Linear(64, 48, bias=False).half())
    base[0].__class__ = CastOnUseLinear
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], lora_dropout=0.0)
    config._register_custom_module(ADAPTER_LAYERS)
    layer = get_peft_model(base, config).base_model.model[0]
    for part in (layer.lora_A, layer.lora_B):
        part["default"].weight.data = torch.randn(part["default"].weight.shape) * 0.1
    if kind is not None:
        layer.rounding = RoundedWeight(kind)
    return layer


def test_it_continues_lora_for_half_the_epochs_at_half_the_rate_and_waits_for_it():
    config = StudyConfig().with_changes(
        {
            "arms": "lora,qlora,qat",
            "train.epochs": 4,
            "train.max_steps": 5,
            "seeds": 2,
            "approaches": "grounded,memory",
        }
    )
    plain, through = twin(config, 2)["lora"].train, twin(config, 2)["qat"].train
    assert through.epochs == 2
    assert through.max_steps == 3
    assert through.learning_rate == plain.learning_rate / 2
    assert through.seed == plain.seed
    assert twin(config)["lora"].train == config.train == twin(config)["qlora"].train
    steps = steps_of(config)
    assert needed_before("train-qat-2+memory", steps) == [
        "data",
        "data-embed",
        "train-lora-2+memory",
    ]
    assert needed_before("train-qlora", steps) == ["data", "data-embed"]
    alone = config.with_changes({"arms": "qat"})
    assert twin(alone)["qat"].train == alone.train
    assert needed_before("train-qat", steps_of(alone)) == ["data", "data-embed"]


def test_the_plan_counts_the_rounded_weights_and_the_shorter_training():
    machine = Machine("a laptop", "cpu", 16 * 10**9, 12 * 10**9)
    methods = plan_study(
        StudyConfig().with_changes({"arms": "lora,qlora,qat"}), machine=machine
    ).methods
    lora, qat = methods["lora"], methods["qat"]
    assert qat.activations.dequantized > lora.activations.dequantized and not qat.dequantized
    assert qat.work.flops == pytest.approx(lora.work.flops / 2, rel=0.05)


@pytest.mark.long
def test_it_resumes_to_the_same_bytes_and_changes_no_byte_of_lora(small_study, tmp_path):
    small_study.write_config(
        small_study.config.with_changes(
            {
                "model.base": str(tiny_base(tmp_path / "base")),
                "train.max_steps": 120,
                "train.epochs": 100,
                "train.sample_answers": 0,
                "arms": "lora,qlora,qat",
            }
        )
    )
    assert run_as_step(small_study, "data", lambda: prepare_data(small_study)) == 0
    without = Study(tmp_path / "without" / "small")
    shutil.copytree(small_study.folder, without.folder)
    without.write_config(without.config.with_changes({"arms": "lora,qlora"}))
    for study in (small_study, without):
        assert start(study, "train-lora").wait() == 0
    assert adapter(small_study, "lora") == adapter(without, "lora")
    cancelled = Study(tmp_path / "cancelled" / "small")
    shutil.copytree(small_study.folder, cancelled.folder)
    assert start(small_study, "train-qat").wait() == 0
    summary = read_json(small_study.arm_folder("qat") / "summary.json")
    assert summary["steps"] == 60 and adapter(small_study, "qat") != adapter(small_study, "lora")

    process = start(cancelled, "train-qat")
    metrics = cancelled.arm_folder("qat") / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.read_text().count('"step", "step"') > 2, process)
    cancelled.request_cancel()
    assert process.wait() == 3
    cancelled.clear_cancel()
    assert start(cancelled, "train-qat").wait() == 0
    assert adapter(cancelled, "qat") == adapter(small_study, "qat")


def adapter(study: Study, arm: str) -> str:
    return file_hash(study.arm_folder(arm) / "adapter" / "adapter_model.safetensors")
