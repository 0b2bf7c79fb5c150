"""The planned bytes against tiny models that are built, quantized, adapted and run as in training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import core_model_loading

from assistant_builder.config import StudyConfig
from assistant_builder.models import loading
from assistant_builder.planning.hardware import this_machine
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import Batch, ComputeSettings, activations
from assistant_builder.planning.plan import Lengths, Plan
from assistant_builder.training.collate import locate_supervised, summed_nll
from assistant_builder.training.cpu_kernels import fuse_cpu_kernels
from tests.tiny_models import save_model

pytestmark = pytest.mark.train
SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma3_text": {"tie_word_embeddings": True, "sliding_window": 128},
    "qwen3_moe": {"moe_intermediate_size": 64},
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    return save_model(kind, tmp_path_factory.mktemp(kind), **SIZES, **MODELS[kind])


def settings(folder: Path, **changes: Any) -> StudyConfig:
    return StudyConfig().with_changes(
        {
            "model.compute_dtype": "bfloat16",
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )


def plan_of(folder: Path, config: StudyConfig) -> Plan:
    name, architecture = load_architecture(str(folder))
    return Plan(
        name, architecture, config, this_machine(), 100, Lengths.assume(config.train.assumed_length)
    )


def adapted(folder: Path, config: StudyConfig, storage: str) -> tuple[Any, int]:
    spec = loading.BaseSpec(folder, storage, config.model.double_quant, "bfloat16")
    base = loading.load_base(spec)
    size = loading.model_bytes(base)
    return loading.add_adapter(base, config.train, 0), size


@pytest.mark.parametrize("double_quant", [True, False])
def test_bytes_of_base_and_adapters_equal_the_plan(folder, double_quant):
    config = settings(folder, model__double_quant=double_quant)
    plan = plan_of(folder, config)
    arms: tuple[tuple[Any, str], ...] = (("qlora", "nf4"), ("lora", "float16"))
    for method, storage in arms:
        model, size = adapted(folder, config, storage)
        assert plan.methods[method].weights_bytes == size
        trained = [value for value in model.parameters() if value.requires_grad]
        assert plan.methods[method].adapter_bytes == sum(value.nbytes for value in trained)
        assert plan.methods[method].trained_parameters == sum(value.numel() for value in trained)


def saved_bytes(model: Any, batch: Batch) -> int:
    """Bytes of the distinct tensors that autograd keeps for the backward pass, the model's own weights left out."""
    owned = {
        value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]
    }
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(3, 500, (batch.rows, batch.length))
    labels = ids.clone()
    labels[:, : batch.length - batch.columns] = -100
    mask = torch.ones_like(ids)
    if batch.padded:
        mask[0, :7] = 0
    inputs = locate_supervised(
        {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = summed_nll(model, inputs)
    assert loss.isfinite()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    ("storage", "padded", "dropout"),
    [("nf4", False, 0.05), ("nf4", True, 0.0), ("float16", True, 0.05), ("int8", False, 0.05)],
)
def test_saved_activations_of_the_blocks_equal_the_plan(folder, storage, padded, dropout):
    config = settings(folder, train__dropout=dropout)
    model, _ = adapted(folder, config, storage)
    fuse_cpu_kernels(model.train(), torch.bfloat16)
    batch = Batch(3, 64, 3 * 20, 20, padded)
    plan = plan_of(folder, config)
    how = ComputeSettings(2, "cpu", config.train.rank, dropout, checkpointing=False)
    planned = activations(plan.architecture, plan.adapted, batch, how, dequantized_bytes=0)
    # of the head autograd keeps the gradient of the logits alone, and the last norm its input
    head = (
        2 * batch.supervised * plan.architecture.vocabulary
        + 2 * batch.tokens * plan.architecture.hidden
    )
    measured = saved_bytes(model, batch)
    assert planned.kept + planned.casts + head == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("storage", ["nf4", "float16", "int8"])
def test_a_mixture_trains_with_default_settings_and_its_adapters_load(tmp_path, storage):
    """PEFT means fused experts by 'all-linear' too, and refuses to put adapters on them together with dropout."""
    save_model("qwen3_moe", tmp_path / "base", **SIZES, **MODELS["qwen3_moe"])
    config = settings(tmp_path)
    assert config.train.dropout > 0 and config.train.target_modules == "all-linear"
    spec = loading.BaseSpec(tmp_path / "base", storage, True, "bfloat16")
    model = loading.add_adapter(loading.load_base(spec), config.train, 0).train()
    places = {
        name.partition(".lora_")[0].rpartition(".")[2]
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    assert places == {"q_proj", "k_proj", "v_proj", "o_proj"}
    ids = torch.randint(3, 500, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [value for value in model.parameters() if value.requires_grad]
    assert all(value.grad is not None for value in trained)
    with torch.no_grad():
        for value in trained:
            value += 0.01
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    again = loading.load_adapter(loading.load_base(spec), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, again(input_ids=ids).logits)


def test_a_4_bit_base_is_loaded_one_tensor_at_a_time(folder, monkeypatch):
    """What the plan's peak of loading rests on: transformers quantizes a tensor before it reads the next."""
    pools: list[object] = []
    read = core_model_loading.spawn_materialize

    def spawn(thread_pool: Any, *words: Any, **more: Any) -> Any:
        pools.append(thread_pool)
        return read(thread_pool, *words, **more)

    monkeypatch.setattr(core_model_loading, "spawn_materialize", spawn)
    adapted(folder, settings(folder), "nf4")
    assert pools and set(pools) == {None}
