"""A new study from a small FAQ spreadsheet: columns, other wordings, name and system prompt, without a browser."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data import load_pairs
from assistant_builder.data.edit import mark_to_decline
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.data.wordings import Wording
from assistant_builder.errors import DataError
from assistant_builder.study import Study
from assistant_builder.ui.data.columns import MAX_COLUMNS, choose_roles, column_note, shown_columns
from assistant_builder.ui.data.form import final_prompt, system_prompt
from assistant_builder.ui.data.new_study import NewStudyForm
from assistant_builder.ui.data.preview import Inspection
from assistant_builder.ui.data.row_editor import NO_ROWS
from tests.synthetic_study import new_study
from tests.ui.blocks import inside_blocks

HEADER = "Kundenfrage / Wunsch,Unsere Antwort,Sprache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Krumm & Linde.csv"
    rows = "".join(
        f"Was kostet das Brot Nummer {n * 7919}?,Es kostet {n} Euro am Samstag.,de\n"
        for n in range(1, 41)
    )
    path.write_text(f"{HEADER}\n{rows}")
    return path


@pytest.fixture
def form() -> NewStudyForm:
    def build() -> NewStudyForm:
        form = NewStudyForm()
        form.wire(gr.Dropdown(), gr.Tabs(), gr.Button())
        return form

    return inside_blocks(build)


def values_of(form: NewStudyForm, config: StudyConfig | None = None) -> dict[Any, Any]:
    """Component → value of an empty form."""
    nothing = {form.editor.held: NO_ROWS.to_text(), form.editor.table: []}
    return {**nothing, **form.upload.form.values(config or StudyConfig())}


def loaded(form: NewStudyForm, file: Path) -> dict[Any, Any]:
    """Component → value of the form with a file."""
    values = {**values_of(form), form.upload.file: str(file)}
    return {**values, **form._load_file(values)}


def test_columns_are_guessed_and_asked_about(form, file):
    shown, header = loaded(form, file), form.header
    assert shown[form.mapping] == {"question": "Kundenfrage / Wunsch", "answer": "Unsere Antwort"}
    assert "40 of 40 rows can be used" in shown[form.upload.brief]
    assert shown[form.upload.name] == "Krumm & Linde"
    assert (
        "Is “Kundenfrage / Wunsch” the question and “Unsere Antwort” the answer?"
        in shown[header.note]
    )
    roles = [shown[role] for role in header.roles[:3]]
    assert [role["value"] for role in roles] == ["question", "answer", ""]
    assert roles[0]["label"] == "Kundenfrage / Wunsch"
    assert "Was kostet" in shown[header.cells[0]]
    visible = [shown[column]["visible"] for column in header.columns]
    assert visible == [True] * 3 + [False] * (MAX_COLUMNS - 3)
    assert "Which column is the question" in column_note(Inspection(None, ("a", "b")), 2)


def test_every_event_sets_components_that_it_names(form, file):
    shown = form._load_file({**values_of(form), form.upload.file: str(file)})
    assert shown.keys() <= set(form._outputs) and form._clear().keys() <= set(form._outputs)


def test_a_role_belongs_to_one_column():
    names = ("frage", "antwort", "notiz")
    for _ in range(2):  # a browser can send one choice twice
        mapping, cleared = choose_roles(names, names, ["question", "answer", "question"], 2)
        assert mapping == {"question": "notiz"} and cleared == [0]
    assert choose_roles(names, names, ["question", "answer", ""], 2) == ({}, [])
    known = ("question", "answer", "group")
    assert choose_roles(known, known, ["question", "answer", ""], 2)[0] == {"group": ""}
    many = [f"c{n}" for n in range(20)]
    assert "c19" in shown_columns(many, {"answer": "c19"})
    assert len(shown_columns(many, {})) == MAX_COLUMNS


def test_a_role_is_moved_to_another_column(form, file):
    shown = loaded(form, file)
    chosen = ["question", "answer", "question", *[""] * (MAX_COLUMNS - 3)]
    values = {**shown, **dict(zip(form.header.roles, chosen, strict=True))}
    for _ in range(2):
        moved = form._remap(values, SimpleNamespace(target=form.header.roles[2]))
        assert moved[form.mapping] == {"question": "Sprache", "answer": "Unsere Antwort"}
        assert moved[form.header.roles[0]]["value"] == ""
        assert form.header.roles[2] not in moved


def test_wordings_in_a_column_of_the_file_are_offered(form, tmp_path):
    path, extra = tmp_path / "faq.csv", form.wordings
    path.write_text(
        "Question,Answer,Or they say\n"
        + "".join(
            f"What does {n} cost today?,It costs {n} pounds.,price of {n}\n" for n in range(40)
        )
    )
    shown = loaded(form, path)
    assert "40 other wordings in the column “Or they say”" in shown[extra.message]
    assert shown[extra.table]["data"][3][:4] == [True, 5, "What does 3 cost today?", "price of 3"]
    used = form._use_wordings({**shown, extra.table: shown[extra.table]["data"]})
    assert "80 of 80" in used[form.upload.brief] and "40 wordings were added" in used[extra.message]


def test_wordings_are_offered_looked_over_and_used(form, file):
    shown, extra = loaded(form, file), form.wordings
    assert "Each answer occurs once" in shown[form.once]
    assert "about ten questions" in shown[form.once]
    assert shown[extra.body]["open"] is True and shown[extra.table]["data"][0][1] == 2
    text = (
        "".join(f"Preis von {n}, bitte?\tEs kostet {n} Euro am Samstag.\n" for n in range(1, 41))
        + "Wer?\tNiemand\n"
    )
    matched = form._match({**shown, extra.pasted: text})
    message, table = matched[extra.message], matched[extra.table]
    assert "40 new wordings" in message and "Wer?" in message and table["data"][0][0] is True
    table["data"][1][0] = False  # looked over and rejected
    used = form._use_wordings({**shown, extra.table: table["data"]})
    data = load_pairs(used[form.source], columns=used[form.mapping])
    assert len(data.pairs) == 79 and "39 wordings were added" in used[extra.message]
    assert used[form.once] == ""
    assert "Preis von 2, bitte?" not in {pair.question for pair in data.pairs}
    undone = form._undo({**shown, **used})
    assert undone[form.source] == str(file) and "40 of 40" in undone[form.upload.brief]


def test_drafts_are_not_ticked(form, file, monkeypatch):
    monkeypatch.setattr(
        "assistant_builder.ui.data.wordings.draft_wordings",
        lambda pairs, number, **options: [Wording(pairs[0].row, "Wie teuer?")],
    )
    extra = form.wordings
    drafting = {
        extra.by: "The base model on this computer",
        extra.url: "",
        extra.model: "",
        extra.number: 1,
    }
    shown = loaded(form, file)
    table = form._draft({**shown, **drafting})[extra.table]
    assert table["headers"][:2] == ["Use", "Row"]
    assert table["data"][0][0] is False and table["data"][0][3] == "Wie teuer?"
    with pytest.raises(Exception, match="no new wording is ticked"):
        form._use_wordings({**shown, extra.table: table["data"]})


def create(
    form: NewStudyForm, name: str, base: str | None, shown: dict[Any, Any]
) -> tuple[Any, Any, Any]:
    """Updates of the picker, the tabs and the message."""
    picker, tabs = gr.Dropdown(), gr.Tabs()
    made = form._create(picker, tabs, {**shown, form.upload.name: name, form.base: base})
    return made[picker], made[tabs], made[form.upload.message]


def test_any_name_creates_a_study_and_leads_to_train(form, file):
    shown = loaded(form, file)
    made = create(form, "Krumm & Linde Bäckerei", None, shown)
    assert made[0]["value"] == "krumm-linde-baeckerei"
    assert made[0]["choices"][0][0].startswith("Krumm & Linde Bäckerei")
    assert made[1].selected == "train" and made[2] == ""
    config = Study.open("krumm-linde-baeckerei").config
    assert config.title == "Krumm & Linde Bäckerei"
    assert config.data.system == "You are Krumm & Linde Bäckerei. You answer questions."
    system = form.upload.form.components["data.system"]
    typed = {
        form.upload.called: "Linde",
        form.upload.whom: "guests",
        system: "You are Lin. You answer questions.",
    }
    again = create(form, "Krumm & Linde Bäckerei", None, shown | typed)
    assert again[0]["value"] == "krumm-linde-baeckerei-2"
    made = Study.open("krumm-linde-baeckerei-2").config.data.system
    assert made == "You are Linde. You answer questions of guests."


def test_a_copy_for_a_new_study_keeps_the_settings(form, file):
    new_study(
        "old",
        file,
        train__epochs="7",
        data__columns__question="Kundenfrage / Wunsch",
        data__columns__answer="Unsere Antwort",
    )
    picker = gr.Dropdown()
    shown = form._revise(picker, {picker: "old"})
    assert shown[picker] is None
    assert shown[form.base] == "old" and shown[form.upload.name] == "old-2"
    create(form, "old-2", "old", {**values_of(form), **shown})
    assert Study.open("old-2").config.train.epochs == 7
    assert not Study.open("old-2").config.data.system


@pytest.mark.parametrize(
    ("called", "whom", "before", "after"),
    [
        (
            "Linde",
            "customers of Krumm & Linde.",
            "",
            "You are Linde. You answer questions of customers of Krumm & Linde.",
        ),
        (
            "",
            "guests",
            "You are x. You answer questions.",
            "You are an assistant. You answer questions of guests.",
        ),
        ("Linde", "", "Antworte kurz.", "Antworte kurz."),
        ("", "", "", ""),
    ],
)
def test_the_system_prompt_follows_two_questions(called, whom, before, after):
    assert system_prompt(called, whom, before) == after


@pytest.mark.parametrize(
    "before",
    [
        "",
        "You are an assistant. You answer questions.",
        "You are Lin. You answer questions.",
        "You are Linde. You answer questions of customers of Kr.",
    ],
)
def test_what_was_typed_last_is_in_the_prompt_of_a_project(before):
    whole = "You are Linde. You answer questions of customers of Krumm & Linde."
    assert final_prompt("Linde", "customers of Krumm & Linde", before) == whole


@pytest.mark.parametrize(
    "before",
    [
        "Antworte kurz.",
        "You are Linde. You answer questions of customers of Kr. Be brief.",
        "You are Bertha. You answer questions of customers of Krumm & Linde.",
    ],
)
def test_a_prompt_that_a_person_wrote_stays(before):
    assert final_prompt("Linde", "customers of Krumm & Linde", before) == before
    assert final_prompt("", "", before) == before


def test_questions_whose_answer_declines_are_marked_by_one_button(form, tmp_path):
    path = tmp_path / "bikes.csv"
    rows = [f"What is bike {n}?,It costs {n} euros." for n in range(30)]
    rows += [f"Who is mayor {n}?,I am sorry; I have no information about that." for n in range(4)]
    path.write_text("\n".join(["question,answer", *rows]))
    with pytest.raises(DataError, match="no readable data file"):
        form._mark_to_decline({**values_of(form), form.source: None, form.mapping: {}})
    shown = loaded(form, path)
    assert shown[form.decline] == gr.update(
        value="Mark 4 questions as ones to decline", visible=True
    )
    marked = form._mark_to_decline(shown)
    assert "4 questions are to be declined" in marked[form.found]
    assert "30 questions will be answered, 4 are to be declined" in marked[form.found]
    assert marked[form.decline]["visible"] is False
    pairs = load_pairs(Path(marked[form.source]), columns=marked[form.mapping]).pairs
    assert [pair.row for pair in pairs if not pair.answerable] == [32, 33, 34, 35]
    assert form._undo({**shown, **marked})[form.source] == str(path)


def test_conversations_that_decline_are_marked_in_one_column_more(tmp_path):
    path, target = tmp_path / "talks.jsonl", tmp_path / "marked.jsonl"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]
    path.write_text("".join(json.dumps({"messages": turns, "id": n}) + "\n" for n in range(4)))
    mark_to_decline(path, {2}, target)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["answerable"] for line in lines] == [True, False, True, True]
    assert all(line.keys() == {"messages", "id", "answerable"} for line in lines)


def test_a_question_without_an_answer_is_named_and_can_be_declined(form, tmp_path):
    path = tmp_path / "bikes.csv"
    rows = [f"What is bike {n}?,It costs {n} euros." for n in range(30)]
    path.write_text("\n".join(["question,answer", *rows, "May my dog come in?,", ",Nobody asks."]))
    shown = loaded(form, path)
    assert "1 question without an answer" in shown[form.found]
    assert shown[form.decline]["value"] == "Mark 1 question as one to decline"
    marked = form._mark_to_decline(shown)
    pairs = load_pairs(Path(marked[form.source]), columns=marked[form.mapping]).pairs
    assert [(each.question, each.answer) for each in pairs if not each.answerable] == [
        ("May my dog come in?", DECLINE_SENTENCE)
    ]
    assert "without an answer" not in marked[form.found]
