"""A new study from a small FAQ spreadsheet: columns, other wordings, name and system prompt, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data import load_pairs
from assistant_builder.study import Study
from assistant_builder.ui.data import new_study as module
from assistant_builder.ui.data.columns import MAX_COLUMNS, choose_roles, column_note, shown_columns
from assistant_builder.ui.data.new_study import NewStudyForm, system_prompt
from assistant_builder.ui.data.preview import Inspection, inspect_file
from assistant_builder.ui.data.row_editor import NO_ROWS
from assistant_builder.ui.data.view import brief_view
from tests.synthetic_study import new_study
from tests.ui.blocks import inside_blocks

HEADER = "Kundenfrage / Wunsch,Unsere Antwort,Sprache"
OUTPUTS = (
    "source",
    "origin",
    "base",
    "name",
    "message",
    "edit message",
    "brief",
    "found",
    "split",
    "rejected",
    "left out",
    "naming",
    "editor",
    "add",
    "once",
    "wordings",
    "table",
    "wordings message",
    "mapping",
)


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
    return inside_blocks(NewStudyForm)


def loaded(form: NewStudyForm, file: Path) -> tuple[dict[str, Any], list[Any]]:
    values = form.upload.form.values(StudyConfig())
    return dict(zip(OUTPUTS, form._load_file(str(file), *values), strict=False)), values


def test_columns_are_guessed_and_asked_about(form: NewStudyForm, file: Path) -> None:
    shown, values = loaded(form, file)
    assert shown["mapping"] == {"question": "Kundenfrage / Wunsch", "answer": "Unsere Antwort"}
    assert "40 of 40 rows can be used" in shown["brief"] and shown["name"] == "Krumm & Linde"
    everything = form._load_file(str(file), *values)
    note = everything[len(OUTPUTS) + 1]
    assert "Is “Kundenfrage / Wunsch” the question and “Unsere Antwort” the answer?" in note
    header = everything[len(OUTPUTS) + 2 + MAX_COLUMNS :][:3]
    assert [column["value"] for column in header] == ["question", "answer", ""]
    assert header[0]["label"] == "Kundenfrage / Wunsch"
    assert "Was kostet" in everything[len(OUTPUTS) + 2 + 2 * MAX_COLUMNS]
    assert "Which column is the question" in column_note(Inspection(None, ("a", "b")), 2)


def test_a_role_belongs_to_one_column() -> None:
    names = ("frage", "antwort", "notiz")
    for _ in range(2):  # a browser can send one choice twice
        mapping, cleared = choose_roles(names, names, ["question", "answer", "question"], 2)
        assert mapping == {"question": "notiz"} and cleared == [0]
    assert choose_roles(names, names, ["question", "answer", ""], 2) == ({}, [])
    known = ("question", "answer", "group")
    assert choose_roles(known, known, ["question", "answer", ""], 2)[0] == {"group": ""}
    many = [f"c{n}" for n in range(20)]
    assert (
        "c19" in shown_columns(many, {"answer": "c19"})
        and len(shown_columns(many, {})) == MAX_COLUMNS
    )


def test_a_role_is_moved_to_another_column(form: NewStudyForm, file: Path) -> None:
    shown, values = loaded(form, file)
    chosen = ["question", "answer", "question", *[""] * (MAX_COLUMNS - 3)]
    for _ in range(2):
        moved = form._remap(
            SimpleNamespace(target=form.header.roles[2]),
            *chosen,
            str(file),
            NO_ROWS.to_text(),
            [],
            shown["mapping"],
            *values,
        )
        assert moved[13] == {"question": "Sprache", "answer": "Unsere Antwort"}
        assert moved[14 + 2 + MAX_COLUMNS]["value"] == ""


def test_wordings_are_offered_looked_over_and_used(form: NewStudyForm, file: Path) -> None:
    shown, values = loaded(form, file)
    assert "Each answer occurs once" in shown["once"] and "about ten questions" in shown["once"]
    assert shown["wordings"]["open"] is True and shown["table"]["data"][0][1] == 2
    mapping = shown["mapping"]
    text = (
        "".join(f"Preis von {n}, bitte?\tEs kostet {n} Euro am Samstag.\n" for n in range(1, 41))
        + "Wer?\tNiemand\n"
    )
    message, table = form._match(str(file), mapping, text)
    assert "40 new wordings" in message and "Wer?" in message and table["data"][0][0] is True
    table["data"][1][0] = False  # looked over and rejected
    outputs = form._use_wordings(table["data"], str(file), NO_ROWS.to_text(), [], mapping, *values)
    used = dict(zip(OUTPUTS[:1] + OUTPUTS[6:], outputs, strict=False))
    data = load_pairs(used["source"], columns=used["mapping"])
    assert (
        len(data.pairs) == 79
        and "39 wordings were added" in used["wordings message"]
        and used["once"] == ""
    )
    assert "Preis von 2, bitte?" not in {pair.question for pair in data.pairs}
    undone = form._undo(str(file), used["mapping"], *values)
    assert undone[0] == str(file) and "40 of 40" in undone[2]


def test_drafts_are_not_ticked(
    form: NewStudyForm, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assistant_builder.data.wordings import Wording

    monkeypatch.setattr(
        "assistant_builder.ui.data.wordings.draft_wordings",
        lambda pairs, number, **options: [Wording(pairs[0].row, "Wie teuer?")],
    )
    shown, _ = loaded(form, file)
    _, table = form._draft(
        str(file), shown["mapping"], None, "The base model on this computer", "", "", 1
    )
    assert table["headers"][:2] == ["Use", "Row"]
    assert table["data"][0][0] is False and table["data"][0][3] == "Wie teuer?"
    with pytest.raises(Exception, match="no new wording is ticked"):
        form._use_wordings(table["data"], str(file), NO_ROWS.to_text(), [], shown["mapping"])


def create(
    form: NewStudyForm,
    name: str,
    base: str | None,
    file: Path,
    mapping: dict[str, str],
    *values: Any,
) -> Any:
    return form._create(name, base, str(file), NO_ROWS.to_text(), [], mapping, *values)


def test_any_name_creates_a_study_and_leads_to_train(form: NewStudyForm, file: Path) -> None:
    shown, values = loaded(form, file)
    made = create(form, "Krumm & Linde Bäckerei", None, file, shown["mapping"], *values)
    assert made[0]["value"] == "krumm-linde-baeckerei" and made[0]["choices"][0][0].startswith(
        "Krumm & Linde Bäckerei"
    )
    assert made[1].selected == "train" and made[2] == ""
    config = Study.open("krumm-linde-baeckerei").config
    assert config.title == "Krumm & Linde Bäckerei"
    assert config.data.system == "You are Krumm & Linde Bäckerei. You answer questions."
    again = create(form, "Krumm & Linde Bäckerei", None, file, shown["mapping"], *values)
    assert again[0]["value"] == "krumm-linde-baeckerei-2"


def test_a_copy_for_a_new_study_keeps_the_settings(form: NewStudyForm, file: Path) -> None:
    new_study(
        "old",
        file,
        train__epochs="7",
        data__columns__question="Kundenfrage / Wunsch",
        data__columns__answer="Unsere Antwort",
    )
    values = form.upload.form.values(Study.open("old").config)
    shown = dict(zip(OUTPUTS, form._revise("old")[3 + len(values) - 1 :], strict=False))
    assert shown["base"] == "old" and shown["name"] == "old-2"
    create(form, "old-2", "old", file, shown["mapping"], *values)
    assert (
        Study.open("old-2").config.train.epochs == 7 and not Study.open("old-2").config.data.system
    )


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
def test_the_system_prompt_follows_two_questions(
    called: str, whom: str, before: str, after: str
) -> None:
    assert system_prompt(called, whom, before) == after


def test_three_rows_are_no_good_news(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(
        "question,answer\nWho?,The clerk.\nWhere?,On the pier.\nWhen?,At half past nine.\n"
    )
    record: Callable[..., Any] = inspect_file(path, {}).findings.to_record  # type: ignore[union-attr]
    said = brief_view(record())
    assert "3 of 3 rows" in said and "ab-warn" in said and "too few for a useful assistant" in said


def test_documents_reach_the_page(form: NewStudyForm, tmp_path: Path) -> None:
    path = tmp_path / "faq.pdf"
    path.write_bytes(b"%PDF-1.7")
    assert ".pdf" in module.FILE_TYPES and ".docx" in module.FILE_TYPES
    shown, _ = loaded(form, path)
    assert (
        "this is a PDF document" in shown["found"]
        and "spreadsheet with the columns" in shown["found"]
    )
