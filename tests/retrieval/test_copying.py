"""Copied answers: the best fact word for word, before anything is trained."""

from pathlib import Path

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data import Message, load_split
from assistant_builder.errors import StudyError
from assistant_builder.models import embedding
from assistant_builder.retrieval.build import write_index
from assistant_builder.retrieval.copying import Copier, copy_stamp, has_index
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import LARGE, done, new_study, with_data

SHEET = Path(__file__).with_name("marl_street_baths.csv")
FAR = (
    "Write me a poem about autumn.",
    "Who won the world cup in 2014?",
    "How do I change a tyre?",
    "What is the capital of Mongolia?",
)


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which loading a model for generation fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    for name in ("load_arm", "load_base"):
        monkeypatch.setattr(f"assistant_builder.models.loading.{name}", refuse)
    monkeypatch.setattr("assistant_builder.models.fetch.fetch", refuse)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: FakeEmbedder())


def sheet(name: str = "baths") -> Study:
    return Study.create(StudyConfig().named(name), SHEET)


def asked(question: str, *before: str) -> list[Message]:
    roles = ("user", "assistant") * len(before)
    turns = [Message(role, text) for role, text in zip(roles, before, strict=False)]
    return [*turns, Message("user", question)]


def test_a_study_that_never_ran_copies_the_answer_of_the_row(fake):
    study = sheet()
    found = Copier.load(study).answer(asked("how warm is the teaching pool"))
    assert found.text == "The teaching pool has 31 degrees." and not found.declined
    assert found.sources[0]["question"] == "How warm is the teaching pool?"
    assert found.sources[0]["row"] == 11
    assert found.judged["mode"] == "copy" and found.judged["confidence"] > 0.5
    assert found.judged["evidence"].keys() == {"similarity", "certainty", "nearby"}
    assert "reason" not in found.judged
    # nothing of a run is there: a later run finds its inputs unchanged
    assert not (study.folder / "data" / "split.json").exists()
    assert not study.retrieval_folder.exists()


def test_a_question_without_words_of_the_data_is_declined_with_the_reason(fake):
    found = Copier.load(sheet()).answer(asked("xylophone zebra quartz?"))
    assert found.declined and not found.sources
    assert found.text == "I can't answer that from what I was given."
    assert found.judged["reason"].startswith("The nearest question of the data is “")


def test_a_follow_up_is_looked_up_with_the_turn_before(fake):
    copier = Copier.load(sheet())
    before = ("Is there a sauna or a slide?", "The sauna is on the second floor.")
    alone = copier.answer(asked("For women only?"))
    assert alone.text == copier.answer(asked("For women only?", *before)).text
    single = copier.answer(
        asked("And the cost?", "What does a swimming course for children cost?", "108.")
    )
    assert single.text == "The children's course costs 108 for twelve lessons."
    # an unrelated question is not changed by earlier turns
    told = "The baths are managed by Odile Farrant."
    assert copier.answer(asked("Who is the manager of the baths?", *before)).text == told


@pytest.mark.train
def test_a_follow_up_about_a_thing_that_the_data_do_not_name_is_declined(bundled_models):
    copier = Copier.load(sheet())
    before = ("What does a single swim cost for adults?", "A single swim costs 5.40 for adults.")
    found = copier.answer(asked("And donkeys?", *before))
    assert found.declined and not found.sources
    children = copier.answer(asked("And for children?", *before))
    assert children.declined or "hildren" in children.text


def test_all_rows_answer_although_some_are_held_out(fake):
    study = with_data(new_study("library"))
    study.status_file("data-embed").unlink()
    assert not has_index(study)
    copier = Copier.load(study)
    known = {fact.answer for fact in copier.retriever.index.facts}
    for split in ("train", "validation", "heldout"):
        pairs = load_split(study.folder / "data", split)
        assert pairs and {pair.answer for pair in pairs if pair.answerable} <= known


@pytest.mark.parametrize("split", ["train", "validation", "heldout"])
def test_all_rows_to_decline_are_declined_before_training(split, fake):
    study = with_data(new_study("ferries", LARGE))
    study.status_file("data-embed").unlink()
    copier = Copier.load(study)
    rows = [pair for pair in load_split(study.folder / "data", split) if not pair.answerable]
    assert rows and all(copier.answer(asked(pair.question)).declined for pair in rows[:20])


def test_the_index_of_a_run_is_used_as_soon_as_it_is_there(fake, monkeypatch):
    study = with_data(new_study("library"))
    study.status_file("data-embed").unlink()
    before = copy_stamp(study)
    training, validation = (
        load_split(study.folder / "data", split) for split in ("train", "validation")
    )
    write_index(study.retrieval_folder, training, validation, FakeEmbedder(), {})
    assert copy_stamp(study) == before  # the step has not finished
    done(study, "data-embed", 1.0)
    assert copy_stamp(study) != before and has_index(study)
    trained = FakeEmbedder()
    monkeypatch.setattr(
        "assistant_builder.retrieval.train_embedder.embedder_of_study", lambda study: trained
    )
    question = next(pair for pair in training if pair.answerable)
    found = Copier.load(study).answer(asked(question.question))
    assert found.text == question.answer and question.question in trained.embedded


def test_nothing_is_downloaded_before_a_run(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(
        embedding.Embedder, "of", lambda model: (asked.append(model), FakeEmbedder())[1]
    )
    config = StudyConfig().with_changes({"retrieval.embedder": "someone/embedder"}).named("baths")
    Copier.load(Study.create(config, SHEET))
    assert asked == [""], "the bundled one"


def test_a_study_without_its_data_says_so(fake):
    study = sheet()
    assert study.source is not None
    study.source.unlink()
    with pytest.raises(StudyError, match="data file is missing"):
        Copier.load(study)


@pytest.mark.train
@pytest.mark.long
def test_the_bundled_embedder_answers_a_sheet_and_declines_what_is_far(
    without_models, bundled_models
):
    copier = Copier.load(sheet())
    for question, start in (
        ("how much for kids", "Children from 4 to 15 pay 2.70"),
        ("do you have wifi", "Wireless internet is free"),
        ("when is the sauna ladies only", "The sauna is for women only"),
        ("can i cancel my class", "Courses can be cancelled"),
        ("lost my locker key", "A lost locker key costs 12"),
    ):
        found = copier.answer(asked(question))
        assert found.text.startswith(start) and found.sources and not found.declined
    for question in FAR:
        assert copier.answer(asked(question)).declined, question
        followed = copier.answer(asked(question, "When do you close?", "At 21:20."))
        assert followed.declined, question
    before = ("tell me about the teaching pool", "The teaching pool has 31 degrees.")
    assert copier.answer(asked("how warm?", *before)).text == before[1]
