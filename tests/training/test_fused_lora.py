"""Adapters fused as on a GPU give the losses and gradients of the plain ones, over every storage; on tiny models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import OlmoConfig, OlmoForCausalLM

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.config import TrainConfig
from assistant_builder.planning.load_architecture import architecture_from_folder
from assistant_builder.planning.memory import (
    ComputeSettings,
    adapted_modules,
    adapter_input_bytes,
)
from assistant_builder.quantization import METHODS
from assistant_builder.quantization.method import QuantizationMethod
from assistant_builder.training.collate import summed_nll
from assistant_builder.training.fused_lora import SharedInputLora, fuse_lora
from assistant_builder.training.gpu import apply_gpu_kernels
from tests.export.tiny import tiny_base
from tests.tiny_models import save_model
from tests.training import test_determinism
from tests.training.test_cpu_kernels import adapted, batch, plain

pytestmark = pytest.mark.train
TRAIN = TrainConfig(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt_neox", "olmo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with grouped queries, with biases, without groups, and with outputs that are changed in place."""
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("llama-alone"))


@pytest.fixture(autouse=True)
def storages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A storage of a plugin: 8 bits with a scale for each row, multiplied by torch's own functions."""

    class RowsLinear(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, METHODS["rows"].dequantize(self, x.dtype), bias)

    class Rows(QuantizationMethod):
        def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
            return outputs * inputs + 4 * outputs

        def quantize(self, layer: Any, *, double_quant: bool, compute_dtype: Any) -> Any:
            weight = layer.weight.data.float()
            scale = weight.abs().amax(1, keepdim=True) / 127
            made = RowsLinear(layer.in_features, layer.out_features, bias=False, device="meta")
            made.weight = torch.nn.Parameter(
                (weight / scale).round().to(torch.int8), requires_grad=False
            )
            made.register_buffer("scale", scale, persistent=False)
            made.bias = layer.bias
            return self.marked(made).train(layer.training)

        def dequantize(self, layer: Any, dtype: Any = None) -> Any:
            return (layer.weight.data.float() * layer.scale).to(dtype or torch.float32)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS._entries, "rows", Rows(name="rows", label="rows", bits=8))
        yield


def same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout zeroes every third value, in the plain layers and in the fused ones."""

    def mask(x: Any) -> Any:
        return (torch.arange(x.numel()) % 3 != 0).view(x.shape)

    def drop(self: nn.Dropout, x: Any) -> Any:
        return x * mask(x) / (1 - self.p) if self.training else x

    monkeypatch.setattr(nn.Dropout, "forward", drop)
    monkeypatch.setattr(
        torch, "native_dropout", lambda x, p, train: (x * mask(x) / (1 - p), mask(x))
    )


def fused(model: Any, inputs: dict[str, Any]) -> tuple[float, Any]:
    """Loss and gradients as on a GPU."""
    fuse_lora(model)
    model.zero_grad()
    loss = summed_nll(model, inputs)
    loss.backward()
    return loss.item(), torch.cat(
        [value.grad.flatten() for value in model.parameters() if value.requires_grad]
    )


def assert_same(model: Any, tolerance: float = 1e-5) -> None:
    wanted, gradients = plain(model, batch())
    loss, ours = fused(model, batch())
    assert loss == pytest.approx(wanted, rel=tolerance)
    assert gradients.norm() > 0 and (ours - gradients).norm() / gradients.norm() < tolerance


@pytest.mark.parametrize("storage", ["float16", "nf4", "fp4", "rows"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_and_gradients_are_those_of_the_plain_adapters(
    folder, storage, dropout, monkeypatch
):
    same_masks(monkeypatch)
    assert_same(
        adapted(
            folder,
            storage,
            "float32",
            hold=False,
            train=TRAIN.model_copy(update={"dropout": dropout}),
        )
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_gradients_are_as_near_to_float32_as_the_plain_ones(llama, dtype):
    wide, narrow, ours = (
        adapted(llama, "nf4", each, hold=False) for each in ("float32", dtype, dtype)
    )
    far = {"plain": 0.0, "ours": 0.0}
    for lengths in (
        (12, 20, 19),
        (30, 33),
        (9, 14, 50),
        (40, 40, 40),
    ):  # one batch alone differs by chance
        _, exact = plain(wide, batch(lengths))
        far["plain"] += float((plain(narrow, batch(lengths))[1] - exact).norm() / exact.norm())
        far["ours"] += float((fused(ours, batch(lengths))[1] - exact).norm() / exact.norm())
    assert far["ours"] < 1.2 * far["plain"]


def test_layers_that_share_an_input_are_one_function_with_one_mask(llama, monkeypatch):
    masks: list[Any] = []
    groups: list[int] = []
    dropout, apply = torch.native_dropout, SharedInputLora.apply
    monkeypatch.setattr(
        torch, "native_dropout", lambda *given: masks.append(dropout(*given)[1]) or dropout(*given)
    )
    monkeypatch.setattr(
        SharedInputLora,
        "apply",
        lambda *given: groups.append(len(given[2].layers)) or apply(*given),
    )
    model = adapted(
        llama, "nf4", "float32", hold=False, train=TRAIN.model_copy(update={"dropout": 0.2})
    )
    fuse_lora(model)
    summed_nll(model, batch())
    assert groups == [3, 1, 2, 1] * 2 and len(masks) == 8  # q, k, v; o; gate, up; down
    with torch.no_grad():
        summed_nll(model.eval(), batch())
    assert len(masks) == 8
    assert all(
        layer.group._pending is None for layer in model.modules() if getattr(layer, "group", None)
    )


def test_adapters_are_cast_again_only_after_a_step(llama):
    model = adapted(llama, "float16", "bfloat16", hold=False)
    fuse_lora(model)
    group = model.get_base_model().model.layers[0].mlp.up_proj.group
    down, *ups = first = group.cast_adapters(torch.bfloat16)
    assert group.cast_adapters(torch.bfloat16) is first
    assert not any(each.requires_grad for each in first) and down.shape == (8, 64) and len(ups) == 2
    with torch.no_grad():
        group.adapters()[3].mul_(2)
    assert torch.equal(group.cast_adapters(torch.bfloat16)[2], ups[1] * 2)
    group.adapters()[0].data = torch.ones(4, 64)  # another tensor of the same version
    assert torch.equal(
        group.cast_adapters(torch.bfloat16)[0][:4], torch.ones(4, 64, dtype=torch.bfloat16)
    )


def test_an_output_that_is_not_used_gets_no_gradient(llama):
    model = adapted(llama, "nf4", "float32", hold=False)
    attention, x = (
        model.get_base_model().model.layers[0].self_attn,
        torch.randn(5, 64, requires_grad=True),
    )
    (wanted,) = torch.autograd.grad(attention.k_proj(x).square().sum(), x)
    fuse_lora(model)
    attention.q_proj(x)
    (found,) = torch.autograd.grad(attention.k_proj(x).square().sum(), x, retain_graph=True)
    assert torch.allclose(found, wanted, atol=1e-5)
    model.zero_grad()
    attention.k_proj(2 * x).sum().backward()
    assert attention.k_proj.lora_B["default"].weight.grad is not None
    assert attention.v_proj.lora_B["default"].weight.grad is None


def test_checkpointing_draws_the_same_masks_again(llama):
    train = TRAIN.model_copy(update={"dropout": 0.2})
    model = adapted(llama, "nf4", "float32", hold=False, train=train)
    torch.manual_seed(5)
    loss, gradients = fused(model, batch())
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    torch.manual_seed(5)
    again, others = fused(model, batch())
    assert again == loss and (others - gradients).norm() / gradients.norm() < 1e-6


@pytest.mark.parametrize(
    ("kernels", "sharded", "attention", "grouped"),
    [
        ("fused", False, "sdpa_without_sync", True),
        ("fused", True, "sdpa_without_sync", False),
        ("plain", False, "sdpa", False),
    ],
)
def test_what_each_setting_fuses(llama, monkeypatch, kernels, sharded, attention, grouped):
    model = adapted(llama, "nf4", "float32", hold=False)
    wanted, gradients = plain(model, batch())
    apply_gpu_kernels(model, kernels, sharded=sharded)
    assert model.get_base_model().config._attn_implementation == attention
    assert {
        getattr(layer, "group", None) is not None
        for layer in model.modules()
        if hasattr(layer, "lora_A")
    } == {grouped}
    loss, ours = plain(model, batch())
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert (ours - gradients).norm() / gradients.norm() < 1e-5
    assert torch.isfinite(ours).all()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_block_saves_what_the_plan_counts(llama, dropout):
    train = TRAIN.model_copy(update={"dropout": dropout})
    model = adapted(llama, "nf4", "bfloat16", hold=False, train=train)
    fuse_lora(model)
    block = model.get_base_model().model.layers[0]
    attention, mlp = block.self_attn, block.mlp
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def inputs(size: int) -> Any:
        return torch.randn(30, size, dtype=torch.bfloat16, requires_grad=True)

    called = [
        (inputs(64), (attention.q_proj, attention.k_proj, attention.v_proj)),
        (inputs(64), (attention.o_proj,)),
        (inputs(64), (mlp.gate_proj, mlp.up_proj)),
        (inputs(96), (mlp.down_proj,)),
    ]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = [layer(x) for x, layers in called for layer in layers]
    for _, layers in called:
        for cast in layers[0].group.cast_adapters(torch.bfloat16):
            kept.pop(cast.untyped_storage().data_ptr())
    del kept[called[1][0].untyped_storage().data_ptr()]  # the attention saves it
    architecture = architecture_from_folder(llama)
    adapted_layers = [
        each for each in adapted_modules(architecture, train) if ".layers.0." in each.name
    ]
    how = ComputeSettings(2, "cuda", train.rank, dropout, checkpointing=False)
    assert len(adapted_layers) == len(outputs) == 7
    assert sum(kept.values()) == 30 * adapter_input_bytes(adapted_layers, how)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the plan names the GPU, see test_determinism
def test_a_model_that_clips_its_projections_in_place_is_trained(device, tmp_path, monkeypatch):
    def olmo(folder: Path) -> Path:
        sizes = read_json(tiny_base(folder) / "config.json")
        sizes = {
            key: sizes[key]
            for key in tuple(
                """
                vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
                bos_token_id eos_token_id pad_token_id
            """.split()
            )
        }
        OlmoForCausalLM(OlmoConfig(**sizes, clip_qkv=0.5)).to(torch.float16).save_pretrained(folder)
        return folder

    monkeypatch.setattr(test_determinism, "tiny_base", olmo)
    test_determinism.trainer(tmp_path, device, **{"train.learning_rate": 0.003}).run()
    losses = [
        event["loss"]
        for event in read_jsonl(tmp_path / "metrics.jsonl")
        if event["event"] == "step"
    ]
    assert len(losses) == test_determinism.STEPS and losses[1] != losses[0] > 0
