"""What the data steps say that they do."""

from pathlib import Path

from assistant_builder.models.embedding import Embedder
from assistant_builder.runner import data_steps
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import new_study, with_data


def test_a_phase_is_named_when_it_begins_and_not_after_its_first_part(monkeypatch):
    study = with_data(new_study(approaches=["grounded"]))
    said: dict[str, str] = {}

    def message() -> str:
        progress = Study.open(study.name).progress("data-embed")
        return progress.message if progress else ""

    class Slow(FakeEmbedder):
        def encode(self, texts, *, progress=None):
            said.setdefault("comparing", message())
            return super().encode(texts)

    def load(report):
        report(9, 9, "Downloading the embedder")
        return Slow()

    def train(study, model, facts, progress):
        said["training"] = message()
        return FakeEmbedder()

    monkeypatch.setattr(Embedder, "load", load)
    monkeypatch.setattr("assistant_builder.retrieval.train_embedder.train_embedder", train)
    monkeypatch.setattr(
        "assistant_builder.retrieval.build.write_index",
        lambda *_, **__: said.setdefault("indexing", message()) and [],
    )
    monkeypatch.setattr(data_steps, "collect_provenance", lambda study: {})
    data_steps.embed_data(study)
    assert said == {
        "comparing": "Comparing questions by meaning",
        "training": "Training the sentence embedder",
        "indexing": "Indexing the training questions",
    }


def test_an_embedder_that_is_downloaded_is_then_loaded(monkeypatch):
    said: list[str] = []

    def ensure(report):
        report(9, 9, "Downloading the embedder")
        return Path("there")

    monkeypatch.setattr("assistant_builder.models.embedding.ensure_embedder", ensure)
    monkeypatch.setattr(Embedder, "__init__", lambda self, folder, **_: said.append("loaded"))
    Embedder.load(lambda done, total, text: said.append(str(text)))
    assert said == ["Downloading the embedder", "Loading the sentence embedder", "loaded"]
