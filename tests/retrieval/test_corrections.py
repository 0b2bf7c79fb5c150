"""Corrections that are served at once, where facts are looked up."""

from pathlib import Path

import pytest

from assistant_builder.chat.feedback import add_correction, correction_rows, remove_correction
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message, load_split
from assistant_builder.inference.grounded import Generation, Grounded
from assistant_builder.models import embedding
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.copying import Copier
from assistant_builder.retrieval.corrections import corrected_answer, read_corrections
from assistant_builder.retrieval.decline import score_rule
from assistant_builder.retrieval.index import Index, Query
from assistant_builder.retrieval.retriever import Chooser, Retriever, rows_without_a_fact
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import LARGE, new_study, with_data

SHEET = Path(__file__).with_name("marl_street_baths.csv")
WARM, WARMER = "The teaching pool has 31 degrees.", "The teaching pool has 32 degrees."


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> Copier:
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: FakeEmbedder())
    return Copier.load(Study.create(StudyConfig().named("baths"), SHEET))


def ask(copier: Copier, question: str, **options):
    return copier.answer([Message("user", question)], **options)


def study_of(copier: Copier) -> Study:
    return copier.retriever.study


def test_a_correction_is_served_at_once_and_undone(copier):
    question = "xylophone zebra quartz"
    assert ask(copier, question).declined
    added = add_correction(study_of(copier), question, "Yes, at the desk.", wrong="I can't say.")
    found = ask(copier, "Xylophone zebra quartz?")
    assert (found.text, found.declined) == ("Yes, at the desk.", False)
    assert found.sources[0]["row"] is None and found.sources[0]["corrected"]
    assert found.judged["mode"] == "copy"
    # what is measured does not have it
    assert ask(copier, question, corrected=False).declined
    remove_correction(study_of(copier), added.time)
    assert ask(copier, question).declined


def test_an_edited_answer_is_given_to_the_other_wordings_too(copier):
    asked = "how warm is the teaching pool"
    assert ask(copier, asked).text == WARM
    add_correction(study_of(copier), "is the pool for lessons warm?", WARMER, wrong=WARM)
    assert ask(copier, asked).text == WARMER
    assert ask(copier, asked).sources[0]["row"] == 11


def test_another_answer_leaves_the_fact_to_its_own_questions(copier):
    told = "Children pay half on Sundays."
    add_correction(study_of(copier), "and what do kids pay then", told, wrong=WARM)
    assert ask(copier, "how warm is the teaching pool").text == WARM
    assert ask(copier, "and what do kids pay then?").text == told


def test_a_question_that_should_be_declined_is(copier):
    question = "How warm is the teaching pool?"
    add_correction(study_of(copier), question, "I do not know.", wrong=WARM, answerable=False)
    found = ask(copier, question)
    assert (found.text, found.declined, found.sources) == ("I do not know.", True, ())


def test_a_damaged_file_does_not_end_the_answers(copier):
    study_of(copier).corrections_file.write_text("no JSON\n", encoding="utf-8")
    assert ask(copier, "how warm is the teaching pool").text == WARM


def test_a_trained_assistant_gives_the_correction_without_its_model(tmp_path, monkeypatch):
    study = Study.create(StudyConfig().named("hall"), SHEET)
    embedder = FakeEmbedder()
    index = Index.build([pair(1, "When does the hall open?", "At nine.")], embedder)
    retriever = Retriever(study, index, embedder, Chooser(2), corrects=True)
    rule = score_rule(0.5, target=0.1, sentence="I was not told.")
    monkeypatch.setattr(
        "assistant_builder.inference.grounded.Conversing.of",
        lambda *_: pytest.fail("one question is asked"),
    )

    def generate(prompt):
        return Generation(1, iter(()), [])

    def find(look):
        return retriever.find([look])[0]

    add_correction(study, "When do you open?", "At ten.", wrong="At nine.")
    asked = [Message("user", "when do you open")]
    grounded = Grounded(retriever, rule)
    (chunk,) = grounded.one(asked, find, generate, lambda text: (text, 2, "stop"))
    assert (chunk.text_delta, chunk.declined) == ("At ten.", False)
    assert chunk.sources[0]["answer"] == "At ten."


def test_a_question_of_a_test_row_has_its_own_answer_and_changes_no_other():
    study = with_data(new_study("ferries", LARGE, approaches=["grounded"]))
    training, validation, heldout = (
        load_split(study.folder / "data", name) for name in ("train", "validation", "heldout")
    )
    index, embedder = Index.build(training, FakeEmbedder()), FakeEmbedder()
    rows = rows_without_a_fact(study, index)
    assert rows and {fact.row for fact in rows.values()} <= {
        pair.row for pair in (*validation, *heldout)
    }
    served = Retriever(study, index, embedder, Chooser(2), corrects=True, rows=rows)
    row = next(each for each in heldout if each.answerable)

    def find(retriever, question):
        messages = (Message("user", question),)
        return retriever.find([Look(Query(question), messages)])[0]

    exact = find(served, row.question.upper())
    assert exact.corrected is not None and exact.corrected.answer == row.answer
    sources, declined, judged = corrected_answer(exact.corrected)
    assert sources[0]["row"] == row.row and not declined and "corrected" not in judged
    assert find(served.measured, row.question).corrected is None
    other = f"{row.question} and where"
    assert find(served, other).evidence == find(served.measured, other).evidence
    add_correction(study, row.question, "At noon.")
    assert find(served, row.question).corrected.answer == "At noon."
    other_setting = study.config.with_changes({"retrieval.final_index": False})
    study.write_config(other_setting)
    assert rows_without_a_fact(Study(study.folder), index) == {}


def test_corrections_are_rows_for_a_spreadsheet(copier):
    add_correction(study_of(copier), "=1+1?", "Two, of course.")
    add_correction(study_of(copier), "Who is the mayor?", "I do not know.", answerable=False)
    rows = correction_rows(read_corrections(study_of(copier))).decode("utf-8-sig").splitlines()
    assert rows == ["question,answer", '\'=1+1?,"Two, of course."']
