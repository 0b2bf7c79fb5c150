"""The storage ``int8``: the values, products and gradients of bitsandbytes' LLM.int8, in training and evaluation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant
from bitsandbytes.nn import Linear8bitLt
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError
from assistant_builder.inference.session import clone_sharing_weights
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base, model_bytes
from assistant_builder.models.lora_layers import (
    dequantize_to_compute_dtype,
    merge,
    quantize,
)
from assistant_builder.planning.memory_check import refusal
from assistant_builder.planning.plan import plan_study
from assistant_builder.quantization import METHODS, method_of
from assistant_builder.quantization.bitsandbytes import OUTLIER
from tests.export.tiny import tiny_base

pytestmark = pytest.mark.train
INT8 = METHODS["int8"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("models") / "tiny-llama")


def plain_layer(outputs: int = 48, inputs: int = 64, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float16).requires_grad_(False)
    layer.weight[3] = 0  # a row without a largest value
    return layer


def int8_layer(plain: nn.Linear) -> Any:
    return INT8.quantize(plain, double_quant=True, compute_dtype=torch.float32)


def inputs(rows: int = 8, columns: int = 64, *, outlier: bool = True) -> torch.Tensor:
    x = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(2))
    x.clamp_(-OUTLIER / 2, OUTLIER / 2)
    if outlier:
        x[1, 2, 5] = 4 * OUTLIER
    return x


def quantized(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if method_of(layer).name == "int8"}


def test_the_values_of_a_loaded_base_are_those_of_bitsandbytes(base):
    stored = quantized(load_base(BaseSpec(base, "int8", True, "float32")))
    wide = dict(load_base(BaseSpec(base, "float16", True, "float32")).named_modules())
    assert len(stored) == 14
    for name, layer in stored.items():
        values, scales, _ = int8_vectorwise_quant(wide[name].weight.data)
        again = INT8.quantize(wide[name], double_quant=False, compute_dtype=torch.float32)
        for found in (layer, again):
            assert found.weight.dtype == torch.int8 and torch.equal(found.weight.data, values)
            assert torch.equal(found.state.SCB, scales)
            assert found.state.CB.data_ptr() == found.weight.data_ptr()  # stored once
            assert found.state.threshold == OUTLIER and not found.weight.requires_grad
        assert torch.allclose(
            INT8.dequantize(layer), int8_vectorwise_dequant(values, scales), rtol=1e-6
        )
        assert torch.equal(
            values, wide[name].weight.float().mul(127 / scales[:, None]).round().to(torch.int8)
        )


def test_a_row_of_zeros_stays_zero():
    layer = int8_layer(plain_layer(bias=False))
    assert not INT8.dequantize(layer)[3].any() and INT8.dequantize(layer).isfinite().all()
    assert not layer.eval()(inputs())[..., 3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_computes_what_the_library_s_own_layer_does(dtype):
    plain = plain_layer()
    own = Linear8bitLt(plain.in_features, plain.out_features, has_fp16_weights=False, threshold=6.0)
    own.load_state_dict(plain.state_dict())
    own = own.to("cpu").eval()  # this quantizes
    x = inputs().to(dtype)
    with torch.no_grad():
        found = int8_layer(plain.eval())(x)
        assert found.dtype == dtype and torch.equal(found, own(x))
        weights_alone = nn.functional.linear(
            x.float(), INT8.dequantize(int8_layer(plain)), plain.bias.float()
        )
    assert (found.float() - weights_alone).abs().max() > 1e-3  # the inputs are rounded too


def test_columns_with_an_outlier_are_not_rounded():
    plain = plain_layer(bias=False).eval()
    layer, rounded = int8_layer(plain), int8_layer(plain)
    rounded.state.threshold = (
        0.0  # every column is rounded, those with outliers set the scale of their row
    )
    x, exact = inputs(), inputs() @ plain.weight.float().T

    def apart(found: torch.Tensor) -> float:
        return float((found - exact)[1, 2].norm() / exact[1, 2].norm())  # the row with the outlier

    with torch.no_grad():
        assert apart(layer(x)) < 0.02 and apart(layer(x)) < apart(rounded(x)) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_in_training_are_those_of_the_dequantized_weight(dtype):
    """Also after an evaluation, which with the 4-bit types of bitsandbytes changes the layout of the weight."""
    layer, weight = int8_layer(plain_layer()), INT8.dequantize(int8_layer(plain_layer()), dtype)
    values = layer.weight.data.clone()
    for _ in range(2):
        x = inputs().to(dtype).requires_grad_()
        result = layer.train()(x)
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        result.backward(grad)
        assert torch.equal(result, nn.functional.linear(x, weight, layer.bias))
        assert torch.equal(x.grad, (grad.view(-1, 48) @ weight).view(x.shape))
        with torch.no_grad():
            layer.eval()(inputs().to(dtype))
        assert torch.equal(layer.weight.data, values)


def test_the_gradient_of_rounded_products_passes_the_rounding_unchanged():
    """``MatMul8bitLt``, which a GPU trains with; evaluation mode runs it on the CPU."""
    layer, x = int8_layer(plain_layer(bias=False)).eval(), inputs().requires_grad_()
    result = layer(x)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    result.backward(grad)
    assert torch.allclose(
        x.grad, (grad.view(-1, 48) @ INT8.dequantize(layer)).view(x.shape), atol=1e-5
    )


def test_a_cpu_evaluates_the_stored_layers_and_trains_with_dequantized_ones(base):
    spec = BaseSpec(base, "int8", True, "float32", hold=True)
    model = load_base(spec)
    assert len(quantized(model)) == 14  # not dequantized: that would not round the inputs
    ids = torch.arange(24).reshape(2, 12)
    for layer in quantized(model).values():
        layer.train()
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        dequantize_to_compute_dtype(model, torch.float32, training=True)
        assert not quantized(model) and torch.equal(model(input_ids=ids).logits, trained)


def test_clones_share_the_stored_weights(base):
    model = load_base(BaseSpec(base, "int8", True, "float32"))
    clone = clone_sharing_weights(model)
    for one, other in zip(quantized(model).values(), quantized(clone).values(), strict=True):
        assert one is not other and one.state is other.state and one.weight is other.weight
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, clone(input_ids=ids).logits)
    assert set(quantized(copy.deepcopy(model))) == set(quantized(model))


@pytest.mark.parametrize("bias", [False, True])
def test_a_base_occupies_the_planned_bytes_about_half_of_float16(tmp_path, bias):
    if bias:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        folder = tmp_path / "base"
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=128,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ).half().save_pretrained(folder)
    else:
        folder = tiny_base(tmp_path / "base")
    config = StudyConfig().with_changes(
        {"model.base": str(folder), "model.quant_type": "int8", "model.compute_dtype": "bfloat16"}
    )
    plan = plan_study(config)
    assert (
        model_bytes(load_base(BaseSpec(folder, "int8", True, "bfloat16")))
        == plan.qlora.weights_bytes
    )
    linear = {module.name for module in plan.architecture.linear()}
    narrow, wide = (
        sum(stored for name, _, stored in method.layers if name in linear)
        for method in (plan.qlora, plan.lora)
    )
    assert 0.5 < narrow / wide < 0.55
    assert INT8.weight_bytes(4096, 4096, double_quant=True) == 4096 * 4096 + 4 * 4096


def test_a_base_that_fsdp_would_shard_is_refused(base):
    with pytest.raises(ConfigError, match="stored as int8 cannot be sharded") as refused:
        load_base(BaseSpec(base, "int8", True, "float32", sharded=True))
    assert "executor.spread=ddp" in str(refused.value.remedy)
    config = StudyConfig().with_changes(
        {
            "model.base": str(base),
            "model.quant_type": "int8",
            "executor.devices": 2,
            "executor.spread": "fsdp",
        }
    )
    plan = plan_study(config)  # before anything is trained, and only for arms that are stored so
    assert plan.shards == 2
    assert "stored as int8 cannot be sharded" in str(refusal(plan, "lora", "qlora"))
    assert "int8" in str(refusal(plan)) and refusal(plan, "lora") is None


def test_doctor_notices_wrong_products(monkeypatch):
    INT8.check("cpu")
    monkeypatch.setattr(torch.ops.bitsandbytes, "int8_mixed_scaled_mm", lambda a, *_: (a, None))
    with pytest.raises(RuntimeError, match="differ from the original"):
        INT8.check("cpu")


def test_a_merged_model_that_is_quantized_again_is_the_int8_export(base, tmp_path):
    """The cells LR and QR in a study over int8, and the folder that ``export --format prequantized`` would write."""
    for storage in ("float16", "int8"):
        model = merge(
            add_adapter(load_base(BaseSpec(base, storage, True, "float32")), StudyConfig().train, 0)
        )
        tensors = {name: value.half() for name, value in model.state_dict().items()}
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
        plain.load_state_dict(tensors)
        plain.save_pretrained(tmp_path / storage / "merged")
        AutoModelForCausalLM.from_pretrained(
            tmp_path / storage / "merged",
            dtype=torch.float16,
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        ).save_pretrained(tmp_path / storage / "int8")
        export = AutoModelForCausalLM.from_pretrained(tmp_path / storage / "int8").eval()
        for value in export.parameters():
            if value.is_floating_point():  # as the product computes in this test
                value.data = value.data.float()
        quantize(model, "int8", double_quant=True, compute_dtype=torch.float32)
        ids = torch.arange(24).reshape(2, 12)
        with torch.no_grad():
            assert torch.equal(model.eval()(input_ids=ids).logits, export(input_ids=ids).logits)
        exported = dict(export.named_modules())
        for name, layer in quantized(model).items():
            assert torch.equal(layer.weight.data, exported[name].weight.data), name
            assert torch.equal(layer.state.SCB, exported[name].state.SCB), name
