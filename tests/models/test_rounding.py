"""Rounded weights are those of the files: of the package gguf block by block, and of bitsandbytes."""

import pytest
import torch
from torch import nn

from assistant_builder.models import rounding
from assistant_builder.models.rounding import rounded
from assistant_builder.quantization import METHODS

pytestmark = pytest.mark.train
GGUF = ("Q8_0", "Q5_1", "Q4_1", "Q4_0")


def weights(case: str) -> object:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(96, 192, generator=generator) * 0.05
    if (
        case == "ties"
    ):  # a block whose largest values have both signs, in both orders, and values between two levels
        values = (torch.randint(-8, 9, (96, 192), generator=generator) / 16).float()
    if case == "odd":
        values[0], values[1, :32], values[2] = 0.0, 1e-7, values[2] * 1e-3
        values[3, 5] = 900.0
    return values.half()


@pytest.mark.parametrize("case", ["normal", "ties", "odd"])
@pytest.mark.parametrize("kind", GGUF)
def test_values_are_those_of_the_package_gguf(kind, case):
    from gguf import GGMLQuantizationType, quants

    weight = weights(case)
    file = quants.quantize(weight.float().numpy(), GGMLQuantizationType[kind])
    wanted = torch.from_numpy(quants.dequantize(file, GGMLQuantizationType[kind]))
    assert torch.equal(rounded(weight, kind), wanted)
    out = torch.empty(96, 200, dtype=torch.bfloat16)[:, :192]  # a part of a larger matrix
    assert torch.equal(rounded(weight, kind, out), wanted.bfloat16())


@pytest.mark.parametrize("kind", GGUF)
def test_no_value_is_read_on_a_gpu(kind):
    # it has no values that could be read
    assert rounded(torch.empty(96, 192, device="meta"), kind).shape == (96, 192)


def test_nf4_values_are_those_of_a_quantized_layer():
    layer = nn.Linear(192, 96, bias=False)
    layer.weight = nn.Parameter(weights("normal"), requires_grad=False)
    method = METHODS["nf4"]
    wanted = method.dequantize(
        method.quantize(layer, double_quant=True, compute_dtype=torch.float32), torch.float32
    )
    assert torch.equal(rounded(weights("normal"), "NF4").float(), wanted.half().float())


def test_parts_of_a_matrix_are_rounded_as_the_whole(monkeypatch):
    wanted = rounding.rounded(weights("normal"), "Q4_0")
    monkeypatch.setattr(rounding, "CACHED_VALUES", 192 * 7)
    assert torch.equal(rounding.rounded(weights("normal"), "Q4_0"), wanted)
