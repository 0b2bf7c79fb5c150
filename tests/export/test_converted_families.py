"""Families 1,024 wide, converted and quantized: llama.cpp computes what transformers computes with the same weights."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from assistant_builder.inference import llamacpp
from assistant_builder.models.gguf_convert import convert_checkpoint, load_dequantized
from assistant_builder.quantization import k_quants
from assistant_builder.quantization.gguf import GgufFile, quantize
from tests.tiny_models import sizes_of

pytestmark = [
    pytest.mark.train,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.long,
    pytest.mark.skipif(not llamacpp.is_installed(), reason="xllamacpp is not installed"),
    pytest.mark.skipif(not k_quants.is_installed(), reason="libgguf is not installed"),
]
WIDE = {
    "vocab_size": 320,
    "hidden_size": 1024,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "pad_token_id": 0,
    "initializer_range": 0.03,  # answers depend on every layer, and rounding does not grow from layer to layer
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "tie_word_embeddings": False,
        "rope_parameters": {  # of Llama 3.1 and later, so that 64 tokens are within its reach
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen3": {"tie_word_embeddings": True, "num_attention_heads": 16},  # wider than the model
    "gemma3_text": {  # the sixth layer is the first without a window
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_hidden_layers": 6,
    },
}
LOST = {"Q8_0": (0.0, 0.04), "Q6_K": (0.0, 0.12), "Q4_0": (0.12, 0.6), "Q4_K_M": (0.12, 0.5)}
"""Least and greatest mean nats per token between the weights of a type and those before rounding."""
PROMPT, TEXT = 40, 64
"""Tokens of the prompt, and of prompt and answer: longer than the window of Gemma 3."""
AS_WRITTEN = 0.01
"""Nats that a token of the F16 file may differ by: llama.cpp rounds activations, keys and values to float16."""
ROUNDED = 0.06
"""Mean nats per token of a quantized file: llama.cpp rounds activations to 8 bits, in blocks like those of weights."""


def wide_model(family: str, folder: Path) -> Any:
    """A model with random weights, as float16 in the folder and as float32 in memory, norms included."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes_of(family, **WIDE | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config)
    for name, value in model.named_parameters():
        if "norm" in name:
            value.data.add_(0.3 * torch.randn_like(value))
    model.to(torch.float16).save_pretrained(folder)
    write_byte_pieces(folder / "tokenizer.model")
    return model.float().eval()


def write_byte_pieces(path: Path) -> None:
    """A SentencePiece tokenizer of single bytes, which the converter takes from every family."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece
    pieces = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    for piece, kind in [*pieces, ("▁", kinds.NORMAL)]:
        model.pieces.add(piece=piece, score=0.0, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    path.write_bytes(model.SerializeToString())


TOKENS: list[int] = np.random.default_rng(0).integers(3, 259, TEXT).tolist()


def of_transformers(model: Any) -> NDArray[Any]:
    """The log-probabilities of the answer, shape ``[TEXT - PROMPT]``."""
    with torch.inference_mode():
        whole = model(torch.tensor([TOKENS])).logits[0].float().log_softmax(-1)
    answer = torch.tensor(TOKENS[PROMPT:])
    return np.asarray(whole[PROMPT - 1 : -1].gather(1, answer[:, None])[:, 0])


def of_llama_cpp(path: Path) -> NDArray[Any]:
    """The same by llama.cpp."""
    with llamacpp.LlamaServer(path, context=128) as server:
        return np.asarray(server.loglikelihoods(TOKENS[:PROMPT], TOKENS[PROMPT:]))


def of_its_weights(path: Path, base: Path) -> NDArray[Any]:
    """The same by transformers, with the dequantized weights of the file."""
    return of_transformers(load_dequantized(path, base, dtype=torch.float32).eval())


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one - other).mean())


def with_shuffled_rows(file: GgufFile, tensor: str, target: Path) -> Path:
    """A copy of the file with the rows of one tensor in another order."""
    from gguf import GGUFReader

    shutil.copy(file.path, target)
    reader = GGUFReader(target, "r+")
    (found,) = (each for each in reader.tensors if each.name == tensor)
    np.random.default_rng(0).shuffle(found.data)
    reader.data.flush()
    return target


def check_types(file: GgufFile, type: str, family: str) -> None:
    matrices = {each.name: each.type for each in file.tensors if len(each.shape) > 1}
    head = "output.weight" if family == "llama" else "token_embd.weight"  # the other two are tied
    assert ("output.weight" in matrices) is (family == "llama")
    kinds = {
        "Q8_0": {"Q8_0"},
        "Q4_0": {"Q4_0", "Q8_0"},
        "Q4_K_M": {"Q4_K", "Q6_K"},
        "Q6_K": {"Q6_K"},
    }
    assert set(matrices.values()) == kinds[type]  # no matrix is too narrow for its blocks
    assert matrices[head] == ("Q6_K" if type in k_quants.K_TYPES else "Q8_0")


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(family, converter, tmp_path):
    base = tmp_path / family
    exact = of_transformers(wide_model(family, base))
    assert exact.std() > 0.4  # otherwise any two models would agree
    full = convert_checkpoint(base, tmp_path / "F16.gguf")
    assert {each.type for each in full.tensors if len(each.shape) > 1} == {"F16"}
    assert np.abs(of_llama_cpp(full.path) - exact).max() < AS_WRITTEN
    for type, (least, most) in LOST.items():
        written = quantize(full.path, tmp_path / f"{type}.gguf", type)
        check_types(written, type, family)
        wanted = of_its_weights(written.path, base)
        assert distance(of_llama_cpp(written.path), wanted) < ROUNDED, type
        assert least <= distance(wanted, exact) < most, type
    damaged = with_shuffled_rows(written, "blk.1.ffn_down.weight", tmp_path / "damaged.gguf")
    assert distance(of_llama_cpp(damaged), wanted) > 2 * ROUNDED
