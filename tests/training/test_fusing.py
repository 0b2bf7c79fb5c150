"""The fast arithmetic of training on a CPU gives the losses and gradients of the plain one; on tiny models, dropout off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.config import TrainConfig

pytestmark = pytest.mark.train
SIZES = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {},  # biases
    "qwen3": {},  # norms of the heads
    "gemma3_text": {"sliding_window": 16},  # other norms, windows, scaled embeddings
    "gpt_neox": {},  # one fused projection, layer norms
    "phi3": {},  # fused gate and up
}
TRAIN = TrainConfig(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if request.param != "phi3" or key != "head_dim"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **sizes, **MODELS[request.param]))
    path = tmp_path_factory.mktemp(request.param)
    model.to(torch.float16).save_pretrained(path)
    return path


def adapted(folder: Path, storage: Any, dtype: str, *, hold: bool, train: TrainConfig = TRAIN) -> Any:
    import torch

    from assistant_builder.models.loading import BaseSpec, add_adapter, load_base

    model = add_adapter(load_base(BaseSpec(folder, storage, True, dtype, hold=hold)), train, 0)
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_B" in name:  # zeros would hide the gradient of A
            value.data.normal_(0, 0.2, generator=generator)
    return model.train()


def batch(lengths: tuple[int, ...] = (12, 20, 19)) -> dict[str, Any]:
    from assistant_builder.models.prompts import Example
    from assistant_builder.training.batches import LeftPadding, to_dataset

    examples = [Example(tuple(3 + (7 * n + i * i) % 250 for i in range(n)), tuple(i >= n // 2 for i in range(n)))
                for n in lengths]
    return LeftPadding(0)(list(to_dataset(examples)))


def plain(model: Any, inputs: dict[str, Any]) -> tuple[float, Any]:
    """Loss and gradients as a training script computes them."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from assistant_builder.training.batches import supervised_logits

    model.zero_grad()
    loss = F.cross_entropy(*supervised_logits(model, inputs), reduction="sum")
    loss.backward()
    return loss.item(), torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])


def fused(model: Any, inputs: dict[str, Any], dtype: Any) -> tuple[float, Any]:
    """The same by the trainer's way."""
    import torch

    from assistant_builder.training.batches import summed_nll
    from assistant_builder.training.fusing import fuse

    fuse(model, dtype)
    model.zero_grad()
    loss = summed_nll(model, inputs)
    loss.backward()
    return loss.item(), torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])


@pytest.mark.parametrize(("storage", "hold"), [("float16", True), ("float16", False), ("nf4", True), ("nf4", False)])
def test_losses_and_gradients_are_those_of_the_plain_forward(folder: Path, storage: str, hold: bool) -> None:
    import torch

    model = adapted(folder, storage, "float32", hold=hold)
    wanted, gradients = plain(model, batch())
    loss, ours = fused(model, batch(), torch.float32)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert gradients.norm() > 0 and (ours - gradients).norm() / gradients.norm() < 1e-4


def test_in_bfloat16_the_gradients_are_as_near_to_float32_as_the_plain_ones(folder: Path) -> None:
    import torch

    _, exact = plain(adapted(folder, "float16", "float32", hold=True), batch())
    model = adapted(folder, "float16", "bfloat16", hold=True)
    _, rounded = plain(model, batch())
    _, ours = fused(model, batch(), torch.bfloat16)
    assert (ours - exact).norm() < 1.25 * (rounded - exact).norm()


@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_holding_weights_changes_no_bit(folder: Path, storage: str) -> None:
    import torch

    train = TRAIN.model_copy(update={"dropout": 0.1})
    found = []
    for hold in (False, True):
        model = adapted(folder, storage, "bfloat16", hold=hold, train=train)
        torch.manual_seed(5)
        found.append(fused(model, batch(), torch.bfloat16))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_evaluation_and_checkpointing_go_through_the_same_arithmetic(folder: Path) -> None:
    import torch

    from assistant_builder.training.batches import summed_nll

    train = TRAIN.model_copy(update={"dropout": 0.1})
    model = adapted(folder, "nf4", "float32", hold=True, train=train)
    torch.manual_seed(5)
    loss, gradients = fused(model, batch(), torch.float32)
    with torch.no_grad():
        assert summed_nll(model.eval(), batch()).item() != loss
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.zero_grad()
    torch.manual_seed(5)
    summed_nll(model, batch()).backward()
    again = torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])
    assert (again - gradients).norm() / gradients.norm() < 1e-5


def test_what_is_not_recognised_stays_as_it_is() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from assistant_builder.training.fusing import _norms

    assert [eps for _, eps in _norms(LlamaRMSNorm(8, eps=1e-3))] == [1e-3]
    assert not list(_norms(GemmaRMSNorm(8)))  # multiplies by 1 + weight


def test_dropped_places_have_the_probability_and_no_pattern() -> None:
    import torch

    from assistant_builder.training.kernels import dropped_places

    torch.manual_seed(3)
    count, p = 1_000_000, 0.05
    places = dropped_places(count, p)
    assert torch.equal(places, places.unique()) and 0 <= int(places[0]) and int(places[-1]) < count
    assert len(places) == pytest.approx(count * p, abs=5 * (count * p * (1 - p)) ** 0.5)
    dropped = torch.zeros(count)
    dropped[places] = 1.0
    neighbours = float((dropped[1:] * dropped[:-1]).mean())
    assert neighbours == pytest.approx(p * p, abs=5 * (p * p / count) ** 0.5)
    halves = [int((places < count // 2).sum()), int((places >= count // 2).sum())]
    assert abs(halves[0] - halves[1]) < 5 * (count * p) ** 0.5
    torch.manual_seed(3)
    assert torch.equal(places, dropped_places(count, p))
    assert all(int(dropped_places(size, 0.9).numel()) <= size for size in (1, 2, 7))


def test_dropout_scales_what_it_keeps() -> None:
    """Over many draws the adapter's mean output is that without dropout."""
    import torch
    from peft import LoraConfig, get_peft_model

    from assistant_builder.models.layers import ADAPTER_LAYERS
    from assistant_builder.training.fusing import fuse

    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.3, target_modules=["0"])
    config._register_custom_module(ADAPTER_LAYERS)
    base = torch.nn.Sequential(torch.nn.Linear(8, 6))
    base.config = type("Config", (), {"to_dict": dict, "get": lambda *_: None})()
    model = get_peft_model(base, config)
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data.normal_()
    fuse(model.train(), torch.float32)
    x = torch.randn(1, 8)
    many = layer(x.expand(40_000, 8)).mean(0)
    kept = layer.eval()(x)[0]
    assert torch.allclose(many, kept, atol=0.05) and not torch.allclose(kept, layer.base_layer(x)[0], atol=0.2)


@pytest.mark.parametrize("shape", [(2, 4, 2, 9), (3, 6, 6, 5), (1, 4, 1, 33)])
def test_short_attention_is_attention(shape: tuple[int, int, int, int]) -> None:
    import torch
    import torch.nn.functional as F  # noqa: N812

    from assistant_builder.training.kernels import ShortAttention

    rows, heads, shared, length = shape
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn((rows, length, n, 8), generator=generator).transpose(1, 2).requires_grad_()
                         for n in (heads, shared, shared))
    seen = torch.ones((rows, 1, length, length), dtype=torch.bool).tril()
    seen[0, :, :, 0] = False
    seen[0, :, 0, 0] = True
    bias = torch.zeros(seen.shape).masked_fill(~seen, -1e30)
    ours = ShortAttention.apply(query, key, value, bias, 0.3)
    theirs = F.scaled_dot_product_attention(query, key, value, seen, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)
    grad = torch.randn(ours.shape, generator=generator)
    for one, other in zip(*(torch.autograd.grad(out, (query, key, value), grad) for out in (ours, theirs)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_loss_is_cross_entropy() -> None:
    import torch
    import torch.nn.functional as F  # noqa: N812

    from assistant_builder.training.kernels import SummedNll

    logits = (5 * torch.randn((19, 300), generator=torch.Generator().manual_seed(0))).requires_grad_()
    targets = torch.arange(19) * 13
    ours, theirs = SummedNll.apply(logits, targets) / 7, F.cross_entropy(logits, targets, reduction="sum") / 7
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)), atol=1e-6)

