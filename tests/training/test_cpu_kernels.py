"""The fast arithmetic of training on a CPU gives the losses and gradients of the plain one; on tiny models."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from assistant_builder.config import TrainConfig
from assistant_builder.inference.padded_batch import supervised_logits
from assistant_builder.models.chat_template import Example
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.models.lora_layers import ADAPTER_LAYERS, train_through_rounding
from assistant_builder.planning.memory import LOSS_ROWS
from assistant_builder.training.collate import TrainingCollator, summed_nll, to_dataset
from assistant_builder.training.cpu_kernels import (
    ChunkedCrossEntropySum,
    EagerShortAttention,
    _rms_norms,
    fuse_cpu_kernels,
    sample_dropout_indices,
)
from tests.tiny_models import as_if_trained, save_model, small_llama

pytestmark = pytest.mark.train
TRAIN = TrainConfig(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module", params="llama qwen2 qwen3 gemma3_text gpt_neox olmo phi3".split())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def adapted(
    folder: Path, storage: Any, dtype: str, *, hold: bool, train: TrainConfig = TRAIN
) -> Any:
    model = add_adapter(load_base(BaseSpec(folder, storage, True, dtype, hold=hold)), train, 0)
    return as_if_trained(model, 0.2).train()  # zeros would hide the gradient of A


def batch(lengths: tuple[int, ...] = (12, 20, 19)) -> dict[str, Any]:
    examples = [
        Example(
            tuple(3 + (7 * n + i * i) % 250 for i in range(n)), tuple(i >= n // 2 for i in range(n))
        )
        for n in lengths
    ]
    return TrainingCollator(0)(list(to_dataset(examples)))


def plain(model: Any, inputs: dict[str, Any]) -> tuple[float, Any]:
    """Loss and gradients as a training script computes them."""
    import torch.nn.functional as F  # noqa: N812

    model.zero_grad()
    loss = F.cross_entropy(*supervised_logits(model, inputs), reduction="sum")
    loss.backward()
    return loss.item(), torch.cat(
        [value.grad.flatten() for value in model.parameters() if value.requires_grad]
    )


def fused(model: Any, inputs: dict[str, Any], dtype: Any) -> tuple[float, Any]:
    """The same by the trainer's way."""
    if not any(getattr(layer, "group", None) for layer in model.modules()):
        fuse_cpu_kernels(model, dtype)
    model.zero_grad()
    loss = summed_nll(model, inputs)
    loss.backward()
    return loss.item(), torch.cat(
        [value.grad.flatten() for value in model.parameters() if value.requires_grad]
    )


@pytest.mark.parametrize(
    ("storage", "hold"),
    [("float16", True), ("float16", False), ("nf4", True), ("nf4", False), ("int8", False)],
)
def test_losses_and_gradients_are_those_of_the_plain_forward(folder, storage, hold):
    model = adapted(folder, storage, "float32", hold=hold)
    wanted, gradients = plain(model, batch())
    loss, ours = fused(model, batch(), torch.float32)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert gradients.norm() > 0 and (ours - gradients).norm() / gradients.norm() < 1e-4


def test_in_bfloat16_the_gradients_are_as_near_to_float32_as_the_plain_ones(folder):
    wide, narrow, ours = (
        adapted(folder, "float16", dtype, hold=True)
        for dtype in ("float32", "bfloat16", "bfloat16")
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
        far["ours"] += float(
            (fused(ours, batch(lengths), torch.bfloat16)[1] - exact).norm() / exact.norm()
        )
    assert far["ours"] < 1.5 * far["plain"]


@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_dequantized_weights_change_no_bit(folder, storage):
    train = TRAIN.model_copy(update={"dropout": 0.1})
    found = []
    for hold in (False, True):
        model = adapted(folder, storage, "bfloat16", hold=hold, train=train)
        torch.manual_seed(5)
        found.append(fused(model, batch(), torch.bfloat16))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_evaluation_and_checkpointing_use_the_same_arithmetic(folder):
    train = TRAIN.model_copy(update={"dropout": 0.1})
    model = adapted(folder, "nf4", "float32", hold=True, train=train)
    torch.manual_seed(5)
    loss, gradients = fused(model, batch(), torch.float32)
    with torch.no_grad():
        assert summed_nll(model.eval(), batch()).item() != loss
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.zero_grad()
    torch.manual_seed(5)
    summed_nll(model, batch()).backward()
    again = torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])
    assert (again - gradients).norm() / gradients.norm() < 1e-5


def test_norms_are_recognised_by_their_results():
    class ShiftedRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Any) -> Any:
            return super().forward(hidden_states) + 1

    found = {
        type(norm): (scale, eps)
        for norm, scale, eps in _rms_norms(
            torch.nn.ModuleList([LlamaRMSNorm(8, eps=1e-3), GemmaRMSNorm(8), ShiftedRMSNorm(8)])
        )
    }
    assert found.keys() == {LlamaRMSNorm, GemmaRMSNorm} and found[LlamaRMSNorm][1] == 1e-3
    assert all(torch.equal(scale, torch.ones(8)) for scale, _ in found.values())


def test_dropout_indices_have_the_probability_and_no_pattern():
    torch.manual_seed(3)
    count, p = 1_000_000, 0.05
    places = sample_dropout_indices(count, p)
    assert torch.equal(places, places.unique()) and 0 <= int(places[0]) and int(places[-1]) < count
    assert len(places) == pytest.approx(count * p, abs=5 * (count * p * (1 - p)) ** 0.5)
    dropped = torch.zeros(count)
    dropped[places] = 1.0
    neighbours = float((dropped[1:] * dropped[:-1]).mean())
    assert neighbours == pytest.approx(p * p, abs=5 * (p * p / count) ** 0.5)
    halves = [int((places < count // 2).sum()), int((places >= count // 2).sum())]
    assert abs(halves[0] - halves[1]) < 5 * (count * p) ** 0.5
    torch.manual_seed(3)
    assert torch.equal(places, sample_dropout_indices(count, p))
    assert all(int(sample_dropout_indices(size, 0.9).numel()) <= size for size in (1, 2, 7))


def one_layer(inputs: int, outputs: int, *, dropout: float, dtype: Any) -> tuple[Any, Any]:
    """An adapted linear layer, and the PEFT model it is in."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules=["down_proj"])
    config._register_custom_module(ADAPTER_LAYERS)
    base = small_llama(
        vocab_size=8,
        hidden_size=outputs,
        intermediate_size=inputs,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    base.to(dtype).train().requires_grad_(False)
    model = get_peft_model(base, config, autocast_adapter_dtype=True)
    return model.base_model.model.model.layers[0].mlp.down_proj, model


def fuse_it(model: Any, dtype: Any) -> None:
    fuse_cpu_kernels(model, dtype)


def test_dropout_scales_the_kept_values():
    """Over many draws the adapter's mean output is that without dropout."""
    layer, model = one_layer(8, 6, dropout=0.3, dtype=torch.float32)
    layer.lora_B["default"].weight.data.normal_()
    fuse_it(model.train(), torch.float32)
    x = torch.randn(1, 8)
    many = layer(x.expand(40_000, 8)).mean(0)
    kept = layer.eval()(x)[0]
    assert torch.allclose(many, kept, atol=0.05)
    assert not torch.allclose(kept, layer.base_layer(x)[0], atol=0.2)


def test_the_gradient_of_the_input_has_the_dropout_of_the_forward_pass():
    layer, model = one_layer(8, 6, dropout=0.5, dtype=torch.float32)
    layer.lora_B["default"].weight.data.normal_()
    fuse_it(model.train(), torch.float32)
    x, along, weights = (
        torch.randn(40, 8, requires_grad=True),
        torch.randn(40, 8),
        torch.randn(40, 6),
    )

    def output(x: Any) -> Any:
        torch.manual_seed(3)  # drops the same values
        return (layer(x) * weights).sum()

    (gradient,) = torch.autograd.grad(output(x), x)
    rise = (output(x + along) - output(x)).item()  # exact, because the output is linear in x
    assert (gradient * along).sum().item() == pytest.approx(rise, abs=1e-3)


def test_barely_trained_adapters_keep_their_output():
    """Added after the base's output was rounded, a tenth of a rounding step is lost; added before, it counts."""
    layer, model = one_layer(64, 512, dropout=0.0, dtype=torch.bfloat16)
    layer.lora_B["default"].weight.data.normal_(0, 2e-5)
    x = torch.randn(256, 64).to(torch.bfloat16)
    base = layer.base_layer(x).float()
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    wanted = layer.scaling["default"] * x.float() @ down.T @ up.T

    @torch.no_grad()
    def share(output: Any) -> float:
        return float(((output.float() - base) * wanted).sum() / wanted.square().sum())

    assert share(layer(x)) < 0.7
    fuse_it(model, torch.bfloat16)
    assert share(layer(x)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("rounds", [False, True])
def test_outputs_are_those_of_the_adapters_after_every_write(rounds):
    """The fused weight is written once a step; between steps it is the same."""
    layer, model = one_layer(64, 32, dropout=0.0, dtype=torch.float32)
    if rounds:
        train_through_rounding(model, "Q8_0")
    x = torch.randn(5, 64)

    def plain() -> Any:
        group, layer.group = layer.group, None
        try:
            return layer(x)
        finally:
            layer.group = group

    fuse_it(model, torch.float32)
    weight = layer.lora_B["default"].weight
    seen = []
    for write in (
        lambda: None,
        lambda: weight.normal_(),
        lambda: weight.mul_(2),
        lambda: setattr(weight, "data", torch.ones(weight.shape)),
        lambda: None,
    ):
        with torch.no_grad():
            write()
            expected, output = plain(), layer(x)
        assert torch.allclose(output, expected, atol=1e-4)
        seen.append((output, layer.group.weights(x.dtype)._version))
    assert not any(torch.equal(one, two) for (one, _), (two, _) in itertools.pairwise(seen[:-1]))
    assert seen[-1][1] == seen[-2][1]


@pytest.mark.parametrize("shape", [(2, 4, 2, 9), (3, 6, 6, 5), (1, 4, 1, 33)])
def test_short_attention_is_attention(shape):
    import torch.nn.functional as F  # noqa: N812

    rows, heads, shared, length = shape
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn((rows, length, n, 8), generator=generator).transpose(1, 2).requires_grad_()
        for n in (heads, shared, shared)
    )
    seen = torch.ones((rows, 1, length, length), dtype=torch.bool).tril()
    seen[0, :, :, 0] = False
    seen[0, :, 0, 0] = True
    bias = torch.zeros(seen.shape).masked_fill(~seen, -1e30)
    ours = EagerShortAttention.apply(query, key, value, bias, 0.3)
    theirs = F.scaled_dot_product_attention(
        query, key, value, seen, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)
    grad = torch.randn(ours.shape, generator=generator)
    gradients = [torch.autograd.grad(out, (query, key, value), grad) for out in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_loss_is_cross_entropy_with_as_many_rows_at_once_as_planned(monkeypatch):
    rows: list[int] = []
    softmax = torch.log_softmax

    def counted(logits: Any, **more: Any) -> Any:
        rows.append(len(logits))
        return softmax(logits, **more)

    monkeypatch.setattr(torch, "log_softmax", counted)
    logits, targets = (
        torch.randn(3 * LOSS_ROWS["cpu"] + 1, 11),
        torch.arange(3 * LOSS_ROWS["cpu"] + 1) % 11,
    )
    logits.requires_grad_()
    loss = ChunkedCrossEntropySum.apply(logits, targets)
    assert rows == [LOSS_ROWS["cpu"]] * 3 + [1]
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (loss, plain)]
    assert torch.allclose(*gradients, atol=1e-6)
