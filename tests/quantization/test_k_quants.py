"""K-quants without a compiler: their types are llama.cpp's, and llama.cpp reads the values that were written."""

from pathlib import Path

import numpy as np
import pytest

from assistant_builder.inference import llamacpp
from assistant_builder.quantization import k_quants
from assistant_builder.quantization.gguf import quantize, require_writer
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.quantization.k_quants import K_TYPES, Model, k_type
from tests.tiny_gguf import LAYERS, write_tiny_gguf

pytestmark = pytest.mark.skipif(not k_quants.is_installed(), reason="libgguf is not installed")
needs_llamacpp = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="xllamacpp is not installed"
)
WIDE = 1024


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights 1,024 wide in float16."""
    return write_tiny_gguf(tmp_path_factory.mktemp("wide") / "wide.gguf", width=WIDE)


def test_every_k_quant_is_written_here():
    assert set(K_TYPES) <= GGUF_TYPES.keys()
    for type in K_TYPES:
        require_writer(type)


@pytest.mark.parametrize(
    ("name", "wanted", "layers", "expected"),
    [
        ("token_embd.weight", "Q4_K_M", 32, "Q6_K"),  # tied
        ("blk.0.attn_q.weight", "Q4_K_M", 32, "Q4_K"),
        ("blk.0.attn_v.weight", "Q4_K_M", 32, "Q6_K"),  # the first eighth
        ("blk.4.ffn_down.weight", "Q4_K_M", 32, "Q4_K"),
        ("blk.6.ffn_down.weight", "Q4_K_M", 32, "Q6_K"),  # every third in between
        ("blk.28.ffn_down.weight", "Q5_K_M", 32, "Q6_K"),  # the last eighth
        ("blk.5.attn_qkv.weight", "Q4_K_M", 32, "Q5_K"),
        ("blk.1.attn_v.weight", "Q3_K_M", 32, "Q5_K"),
        ("blk.2.attn_v.weight", "Q3_K_M", 32, "Q4_K"),
        ("blk.1.ffn_down.weight", "Q3_K_M", 32, "Q5_K"),
        ("blk.9.ffn_up.weight", "Q3_K_M", 32, "Q3_K"),
        ("blk.9.ffn_up.weight", "Q6_K", 32, "Q6_K"),
    ],
)
def test_types_are_those_of_llama_quantize(name, wanted, layers, expected):
    assert k_type(name, WIDE, wanted, Model(layers, 0, tied=True)) == expected


def test_narrow_matrices_get_types_with_smaller_blocks():
    narrow = Model(30, 0, tied=True)
    assert k_type("blk.0.attn_q.weight", 576, "Q4_K_M", narrow) == "Q5_0"
    assert k_type("blk.0.attn_v.weight", 576, "Q4_K_M", narrow) == "Q8_0"
    assert k_type("blk.0.attn_q.weight", 576, "Q3_K_M", narrow) == "IQ4_NL"
    assert k_type("blk.0.attn_q.weight", 48, "Q4_K_M", narrow) == "F16"


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_of_the_other_types_are_those_of_the_package_gguf(kind):
    from gguf import GGMLQuantizationType
    from gguf import quantize as by_gguf

    rows = np.random.default_rng(1).normal(0, 0.05, (64, WIDE)).astype(np.float32)
    expected = by_gguf(rows, GGMLQuantizationType[kind])
    assert np.array_equal(k_quants.quantize_rows(rows, kind), expected)


@pytest.mark.parametrize(
    ("kind", "error"), [("Q3_K", 0.16), ("Q4_K", 0.08), ("Q5_K", 0.04), ("Q6_K", 0.02)]
)
def test_weights_are_rounded_and_columns_weighed(kind, error):
    from gguf import GGMLQuantizationType, dequantize

    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.05, (64, WIDE)).astype(np.float32)
    weights = rng.uniform(0.1, 3, WIDE).astype(np.float32)

    def loss(found):
        return float(
            np.average(np.square(found - rows), weights=np.broadcast_to(weights, rows.shape))
        )

    plain, weighed = (
        dequantize(k_quants.quantize_rows(rows, kind, each), GGMLQuantizationType[kind])
        for each in (None, weights)
    )
    assert np.sqrt(np.mean(np.square(plain - rows))) / 0.05 < error
    assert loss(weighed) < loss(plain)


@needs_llamacpp
@pytest.mark.parametrize("type", K_TYPES)
def test_llama_cpp_computes_with_the_values_that_were_written(type, wide, tmp_path):
    written = quantize(wide, tmp_path / "k.gguf", type)
    assert (
        sum(count for name, count in written.tensor_types.items() if name.endswith("_K"))
        >= 5 * LAYERS
    )
    plain = _dequantized(written.path, tmp_path / "plain.gguf")
    found = []
    for path in (written.path, plain):
        with llamacpp.LlamaServer(path, context=128) as server:
            prompt, target = server.tokenize("Which key?"), server.tokenize_text("the third one")
            found.append(server.loglikelihoods(prompt, target))
    # llama.cpp rounds activations to 8 bits where weights are K-quants
    assert np.abs(np.subtract(*found)).mean() < 0.15 * np.abs(found[1]).mean()


def _dequantized(source: Path, target: Path) -> Path:
    """The same values in float32."""
    from gguf import GGUFReader, GGUFWriter, dequantize

    from assistant_builder.quantization import gguf

    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    gguf._copy_metadata(reader, writer, 0)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
