"""GGUF files: refused where they are damaged, and quantized as llama.cpp would."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant_builder.errors import Cancelled, ConfigError, ModelError
from assistant_builder.quantization.gguf import (
    GgufTensor,
    quantize,
    read_gguf,
    require_writer,
    tensor_type,
)
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from tests.tiny_gguf import LAYERS, write_tiny_gguf

MATRICES = 7 * LAYERS
OWN = [each.name for each in GGUF_TYPES.values() if not each.k_quant]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "source.gguf")


def test_a_header_is_read(source):
    found = read_gguf(source)
    assert found.architecture == "llama" and found.metadata["llama.block_count"] == LAYERS
    assert found.tensor_types == {"F16": MATRICES + 1, "F32": 2 * LAYERS + 1}
    assert {tensor.shape for tensor in found.tensors if "ffn_down" in tensor.name} == {(64, 128)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GGUF", "ends within"),
        (b"PK\x03\x04" + b"\0" * 64, "does not begin with GGUF"),
        (struct.pack("<4sI", b"GGUF", 9) + b"\0" * 64, "version 9"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0) + b"\0" * 64, "claims to have"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60) + b"\0" * 64, "claims to have"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**50) + b"\0" * 64, "a name has"),
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 77) + b"\0" * 64, "unknown type 77"),
        (
            struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 8, 2**60) + b"\0" * 64,
            "an array claims",
        ),
        (
            struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 4, 2**60) + b"\0" * 64,
            "ends within",
        ),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0) + b"\0" * 64, "no architecture"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(content, reason, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, source, tmp_path):
    content = source.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="truncated|ends within"):
        read_gguf(path)


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_no_damage_of_the_header_raises_anything_else(changes, source):
    content = bytearray(source.read_bytes())
    for place, value in changes:
        content[place] = value
    path = source.with_name("damaged.gguf")
    path.write_bytes(content)
    try:
        read_gguf(path)
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("type", OWN)
def test_weights_are_rounded_once(type, source, tmp_path):
    from gguf import GGUFReader, dequantize

    written = quantize(source, tmp_path / "out.gguf", type)
    head = {} if type in ("BF16", "Q8_0") else {"Q8_0": 1}
    assert written.tensor_types == {
        type: MATRICES + (0 if head else 1),
        "F32": 2 * LAYERS + 1,
        **head,
    }
    before, after = (
        {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        for path in (source, written.path)
    )
    limit = {"BF16": 0.005, "Q8_0": 0.01, "Q5_1": 0.06, "Q4_1": 0.12, "Q4_0": 0.2}[type]
    for name, tensor in before.items():
        values, found = (
            tensor.data.astype(np.float32),
            dequantize(after[name].data, after[name].tensor_type),
        )
        assert found.shape == values.shape and np.abs(found - values).max() <= limit
        assert tensor.data.dtype != np.float32 or np.array_equal(values, found)
    kept = dict(read_gguf(source).metadata)
    assert written.metadata == kept | {
        "general.file_type": GGUF_TYPES[type].file_type,
        "general.quantization_version": 2,
    }
    assert [
        field.contents()
        for field in GGUFReader(written.path).fields.values()
        if "tokens" in field.name
    ] == [
        field.contents() for field in GGUFReader(source).fields.values() if "tokens" in field.name
    ]


@pytest.mark.parametrize(
    ("name", "shape", "type", "tied", "experts", "expected"),
    [
        ("blk.0.ffn_up.weight", (128, 64), "F16", True, 0, "Q4_0"),
        ("blk.0.ffn_up.weight", (128, 48), "F16", True, 0, "F16"),  # no multiple of the block of 32
        ("blk.0.attn_norm.weight", (64,), "F32", True, 0, "F32"),
        ("blk.0.attn_q.bias", (64,), "F32", True, 0, "F32"),
        ("blk.0.ffn_gate_inp.weight", (8, 64), "F16", True, 8, "F16"),
        ("blk.0.attn_k.weight", (64, 64), "F16", True, 8, "Q8_0"),
        ("blk.0.attn_q.weight", (64, 64), "F16", True, 8, "Q4_0"),
        ("blk.0.ffn_up_exps.weight", (8, 128, 64), "F16", True, 8, "Q4_0"),
        ("token_embd.weight", (258, 64), "F16", True, 0, "Q8_0"),
        ("token_embd.weight", (258, 64), "F16", False, 0, "Q4_0"),
        ("output.weight", (258, 64), "F16", False, 0, "Q8_0"),
        ("blk.0.ssm_conv1d.weight", (64, 64), "F16", True, 0, "F16"),
    ],
)
def test_types_follow_llama_cpp(name, shape, type, tied, experts, expected):
    assert (
        tensor_type(GgufTensor(name, shape, type, 0), "Q4_0", tied=tied, experts=experts)
        == expected
    )


def test_widths_that_are_no_multiple_of_a_block_stay_in_16_bits(tmp_path):
    source = write_tiny_gguf(tmp_path / "narrow.gguf", width=48)
    written = quantize(source, tmp_path / "out.gguf", "Q4_0")
    assert {tensor.name for tensor in written.tensors if tensor.type == "Q4_0"} == {
        f"blk.{layer}.ffn_down.weight" for layer in range(LAYERS)
    }
    assert written.tensor_types["F16"] == 6 * LAYERS + 1


def test_a_cancelled_file_is_removed(source, tmp_path):
    def cancel(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        quantize(source, tmp_path / "out.gguf", "Q4_0", cancel)
    assert not list(tmp_path.iterdir())


def test_k_quants_need_a_package(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for write in (
        lambda: require_writer("Q4_K_M"),
        lambda: quantize(source, tmp_path / "out.gguf", "Q4_K_M"),
    ):
        with pytest.raises(ConfigError) as caught:
            write()
        assert str(caught.value).startswith(
            "--type: Q4_K_M needs the package libgguf, which is not installed, and neither is llama.cpp. Install it"
        )
        assert str(caught.value).endswith("or choose one of BF16, Q8_0, Q5_1, Q4_1, Q4_0")
    require_writer("Q4_0")
    with pytest.raises(ConfigError, match="is not one of"):
        quantize(source, tmp_path / "out.gguf", "Q9")


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_k_quants_are_written_by_the_program_on_the_path(source, tmp_path, monkeypatch):
    program = tmp_path / "llama-quantize"
    program.write_text(
        '#!/bin/sh\n[ "$3" = Q6_K ] && cp "$1" "$2" || { echo "bad type"; exit 3; }\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("assistant_builder.quantization.k_quants.is_installed", lambda: False)
    assert quantize(source, tmp_path / "out.gguf", "Q6_K").path.read_bytes() == source.read_bytes()
    with pytest.raises(ModelError, match="could not quantize to Q4_K_M: bad type"):
        quantize(source, tmp_path / "other.gguf", "Q4_K_M")
    assert not (tmp_path / "other.gguf").exists()
