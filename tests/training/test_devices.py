"""What a training on GPUs needs, tested without one: devices, sharded loading, float16, vision towers."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    TrainingArguments,
)
from transformers.integrations.bitsandbytes import Bnb4bitQuantize

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import TrainConfig
from assistant_builder.models import loading
from assistant_builder.models.chat_template import Example
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import ParallelStrategy, adapted_modules, adapter_parameters
from assistant_builder.quantization import bitsandbytes
from assistant_builder.study import Study
from assistant_builder.training import distributed
from assistant_builder.training.sft_config import TrainingRun, sft_arguments
from assistant_builder.training.train import train_in_process
from assistant_builder.training.trainer import TwinTrainer
from tests.export.tiny import tiny_base
from tests.training.test_determinism import trainer
from tests.training.test_distributed import a_study

pytestmark = pytest.mark.train


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def test_a_rank_selects_its_gpu_before_it_loads_the_base(base, monkeypatch):
    class Loaded(Exception):
        pass

    calls: list[Any] = []

    def load(spec: Any) -> None:
        calls.append("load")
        raise Loaded

    study = a_study("rank", base, "float32")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device))
    monkeypatch.setattr(loading, "pick_device", lambda: "cpu")  # as planned: there is no GPU
    monkeypatch.setattr(loading, "load_base", load)
    with pytest.raises(Loaded):
        train_in_process(study, "lora", ParallelStrategy("ddp", 2))
    assert calls == [1, "load"]


def test_processes_wait_until_one_has_read_a_large_base(base, monkeypatch):
    """NCCL gives up after 10 minutes by default; with FSDP rank 0 alone reads the weights."""
    assert trainer(base.parent, "cpu").args.ddp_timeout >= 3600
    given: list[Any] = []
    monkeypatch.setattr(distributed, "PartialState", lambda **how: given.append(how))
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.setenv(name, "")
    distributed.start_fsdp("cuda", on_leader=True)
    assert given[0]["backend"] == "nccl" and given[0]["timeout"] >= timedelta(hours=1)


@pytest.mark.parametrize(
    ("storage", "rank", "place"),
    [("float16", 0, "cpu"), ("float16", 1, "meta"), ("nf4", 0, "cpu"), ("nf4", 1, "cpu")],
)
def test_a_base_to_be_sharded_is_not_loaded_onto_one_gpu(base, monkeypatch, storage, rank, place):
    class Spied(BaseException):
        """No error of loading, which would be translated."""

    def spy(*_: Any, device_map: dict[str, Any], **__: Any) -> None:
        raise Spied(device_map)

    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: rank)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    spec = loading.BaseSpec(base, storage, True, "bfloat16", device="cuda")
    exact = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    for name in exact:
        setattr(torch.backends.cuda.matmul, name, True)
    with pytest.raises(Spied) as alone:
        loading.load_base(spec)
    assert not any(getattr(torch.backends.cuda.matmul, name) for name in exact)
    assert alone.value.args[0] == {"": rank}
    with pytest.raises(Spied) as sharded:
        loading.load_base(replace(spec, sharded=True))
    assert sharded.value.args[0] == {"": place}


def test_4_bit_weights_to_be_sharded_are_quantized_one_at_a_time_on_the_gpu(base, monkeypatch):
    asked: list[str] = []

    make = bitsandbytes.quantizer_on

    def on_cpu_after_all(device: Any) -> Any:
        asked.append(str(device))
        return make(torch.device("cpu"))

    spec = loading.BaseSpec(base, "nf4", True, "bfloat16")
    plain = loading.load_base(replace(spec, sharded=True))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "current_device", lambda: 1)
        patch.setattr(bitsandbytes, "quantizer_on", on_cpu_after_all)
        sharded = loading.load_base(replace(spec, device="cuda", sharded=True))
    layers = [
        (one, two)
        for one, two in zip(plain.modules(), sharded.modules(), strict=True)
        if isinstance(one, Linear4bit)
    ]
    assert len(layers) == 14 and asked == ["cuda:1"]
    assert all(
        torch.equal(one.weight.data.view(torch.uint8), two.weight.data.view(torch.uint8))
        for one, two in layers
    )

    # and where each weight is meanwhile
    seen: list[str] = []

    def convert(self: Any, input_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        seen.extend(weight.device.type for weight in input_dict.values())
        return input_dict

    monkeypatch.setattr(Bnb4bitQuantize, "convert", convert)
    with FakeTensorMode():
        quantize = make(torch.device("cuda", 0))(None)
        given = {"a": [torch.empty(4, 4)], "b": torch.empty(4, 4)}
        assert [weight.device.type for weight in quantize.convert(given).values()] == ["cpu", "cpu"]
    assert seen == ["cuda", "cuda"]


def one_step(study: Study, arm: str = "lora") -> Any:
    """Train one step; return the first moments of the optimizer, a tenth of the gradients."""
    train_in_process(study, arm, ParallelStrategy())
    state = torch.load(
        study.arm_folder(arm) / "checkpoints" / "checkpoint-1" / "optimizer.pt", weights_only=True
    )
    return torch.cat([entry["exp_avg"].flatten() for entry in state["state"].values()])


def test_one_process_with_two_visible_gpus_uses_one(base, monkeypatch):
    class SeesTwo:
        """What transformers finds out about the devices, with a second GPU."""

        def __init__(self, found: Any) -> None:
            self.found = found

        def __get__(self, arguments: Any, owner: type) -> Any:
            if arguments is None:
                return self
            device = self.found.__get__(arguments, owner)
            if "seen" not in arguments.__dict__:  # as at its first look, and never again
                arguments.__dict__["seen"] = True
                arguments._n_gpu = 2
            return device

    alone = a_study("alone", base, "float32", train__max_steps=1)
    seeing = a_study("seeing", base, "float32", train__max_steps=1)
    wanted = one_step(alone)
    monkeypatch.setattr(
        TrainingArguments, "_setup_devices", SeesTwo(TrainingArguments.__dict__["_setup_devices"])
    )
    assert one_step(seeing).equal(wanted)


def test_float16_gradients_are_those_of_float32(base, monkeypatch):
    """In a step of many tokens, whose shares of the loss have gradients that float16 alone rounds to zero."""
    compute = TwinTrainer.compute_loss

    def share_of_many(
        trainer: Any, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any, **__: Any
    ) -> Any:
        return compute(trainer, model, inputs, num_items_in_batch=100 * num_items_in_batch)

    monkeypatch.setattr(TwinTrainer, "compute_loss", share_of_many)
    wide, narrow = (
        one_step(a_study(dtype, base, dtype, train__max_steps=1))
        for dtype in ("float32", "float16")
    )
    assert float((narrow - wide).norm() / wide.norm()) < 0.005


@pytest.mark.long
def test_a_step_whose_float16_gradients_overflow_is_skipped(base, monkeypatch):
    from assistant_builder.training import trainer

    monkeypatch.setattr(trainer, "LOSS_SCALE", 2.0**40)
    study = a_study("steep", base, "float16", train__max_steps=40, train__epochs=20)
    train_in_process(study, "lora", ParallelStrategy())
    steps = [
        event
        for event in read_jsonl(study.arm_folder("lora") / "metrics.jsonl")
        if event["event"] == "step"
    ]
    norms = [event["grad_norm"] for event in steps]
    skipped = next(place for place, norm in enumerate(norms) if norm is not None)
    # a larger gradient may overflow at the last scale
    assert 5 < skipped < 35 and norms[skipped:].count(None) <= 1
    assert steps[-1]["loss"] < steps[0]["loss"]


def base_that_sees(folder: Path) -> Path:
    """A Gemma 3 of two layers with a vision tower of two layers, over the tiny base's tokenizer."""
    tiny_base(folder)
    torch.manual_seed(0)
    text = {
        "vocab_size": 258,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
        "vision_use_head": False,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=257,
        boi_token_index=256,
        eoi_token_index=255,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    Gemma3ForConditionalGeneration(config).to(torch.float16).save_pretrained(str(folder))
    return folder


def test_a_vision_tower_gets_no_adapters(tmp_path):
    """With adapters on layers that text does not reach, DDP would wait for their gradients."""
    base = base_that_sees(tmp_path / "base")
    architecture = load_architecture(str(base))[1]
    named = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    for modules in ("all-linear", named):
        train = TrainConfig(rank=4, target_modules=modules)
        spec = loading.BaseSpec(base, "float16", True, "float32")
        model = loading.add_adapter(loading.load_base(spec), train, 0)
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        assert len(trained) == 2 * 7 * 2  # A and B of the linear layers of two decoder blocks
        assert not [name for name in trained if "vision" in name]
        planned = [adapter_parameters(each, 4) for each in adapted_modules(architecture, train)]
        assert sum(planned) == sum(each.numel() for each in trained.values())


@pytest.mark.parametrize(
    ("device", "dtype", "optimizer"),
    [
        ("cuda", "bfloat16", "adamw_torch_fused"),
        ("cuda", "float16", "adamw_torch"),
        ("cpu", "bfloat16", "adamw_torch"),
    ],
)
def test_the_fused_optimizer_is_not_used_if_steps_may_be_skipped(
    tmp_path, device, dtype, optimizer
):
    """It always counts as a step, and the learning rate would go on where float16 overflowed."""
    example = Example((1, 2), (False, True))
    plan = TrainingRun(
        TrainConfig(),
        [example] * 8,
        [example],
        tmp_path,
        device,
        False,
        False,
        lambda: False,
        lambda *_: None,
    )
    model: Any = SimpleNamespace(config=SimpleNamespace(dtype=getattr(torch, dtype)))
    assert sft_arguments(plan, tmp_path, model).optim == optimizer
