"""Sentence embeddings: unit rows in the order asked, from the local folder."""

import json

import numpy as np
import pytest

from assistant_builder.errors import ModelError
from assistant_builder.models.bundled import ensure_embedder
from assistant_builder.models.embedding import Embedder

pytestmark = pytest.mark.train


def test_rows_are_unit_vectors_in_order(bundled_models):
    embedder = Embedder.load()
    texts = [
        "A cat sits on the mat.",
        "",
        "Share prices fell by three per cent on Monday.",
        "A feline rests on a rug.",
    ]
    told: list[tuple[int, int]] = []
    vectors = embedder.encode(
        texts, batch_size=3, progress=lambda done, total: told.append((done, total))
    )
    assert vectors.shape == (4, 384) == (4, embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert told == [(3, 4), (4, 4)]
    similar = vectors @ vectors.T
    assert similar[0, 3] > 0.5 > similar[0, 2]
    assert np.allclose(embedder.encode([texts[2]])[0], vectors[2], atol=1e-5)
    assert embedder.encode([]).shape == (0, 384)


def test_damaged_folder_is_told(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ModelError, match="embedder cannot be loaded"):
        Embedder(tmp_path)


def test_another_embedder_is_a_folder_of_sentence_transformers(bundled_models):
    bundled = Embedder.load()
    other = Embedder.of(str(ensure_embedder()))
    assert other.sha256 == bundled.sha256
    assert (other.encode(["When?"]) == bundled.encode(["When?"])).all()
    assert Embedder.of("").name == bundled.name


def test_an_unknown_embedder_is_an_error_that_names_the_setting(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nobody/no-such-embedder-here", "../no folder"):
        with pytest.raises(ModelError, match=r"retrieval\.embedder"):
            Embedder.of(name)


@pytest.mark.parametrize(
    "modules",
    [
        [1],
        {"a": 1},
        [{"idx": 0}],
        [{"idx": 0, "name": "0", "path": "", "type": 3}],
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.evil.Evil"}],
        [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.util.misc.import_from_string",
            }
        ],
        [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}],
    ],
    ids=repr,
)
def test_an_embedder_of_somebody_else_is_an_error_or_runs_no_code(modules, tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(ModelError, match="the embedder cannot be loaded"):
        Embedder(tmp_path, device="cpu")
    assert not (tmp_path / "ran").exists()
