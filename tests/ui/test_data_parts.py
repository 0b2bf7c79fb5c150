"""The Data tab without a browser: row editor, labels of settings, lengths, and the data of a study."""

import json
from html import unescape
from pathlib import Path

import pytest

from assistant_builder.data import Message, Pair, RejectedRow, check_pairs, load_pairs
from assistant_builder.data.columns import column_settings
from assistant_builder.data.edit import rejected_csv
from assistant_builder.data.reading_process import read_table
from assistant_builder.data.types import RowNumbers
from assistant_builder.i18n import m, render, use_language, use_words
from assistant_builder.ui.data.preview import inspect_file, with_system
from assistant_builder.ui.data.row_editor import (
    NO_ROWS,
    EditorRows,
    edited_file,
    editor_view,
    left_out_download,
)
from assistant_builder.ui.data.tab import (
    study_left_out,
)
from assistant_builder.ui.data.view import (
    brief_view,
    findings_view,
    leaks_view,
    rejected_view,
    unreadable_view,
)
from assistant_builder.ui.settings_form import PAGE_WORDS
from tests.synthetic_study import new_study, with_data
from tests.texts import plain

HOSTILE = '<img src="x" onerror=1>'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    rows = "".join(f"What is number {n}?,It is {n}.\n" for n in range(400))
    path.write_text(
        f"question,answer\n{rows}Why?,\nWhat is number 3?,Another.\nWhat is number 4?,It is 4.\n"
    )
    return path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            m(
                "Say which ({options})",
                options=column_settings({"question": "Q", "answer": "'A b'"}),
            ),
            "Say which (“Question” under “Match your columns” and “Answer” under “Match your columns” (A b))",
        ),
        (
            m("none ({--set data.columns.group=''})"),
            "none (“Group, kept together” under “Match your columns” (not used))",
        ),
        (m("Raise {train.max_length} to keep"), "Raise “Longest pair” to keep"),
        (m("with {data.remove_leaks=never}"), "with “Remove overlap” (never)"),
    ],
)
def test_messages_name_settings_by_their_labels(text, shown):
    with use_words(PAGE_WORDS):
        assert render(text) == shown


BOOKS = """instruction,input,output
When do you open in winter?,,At ten.
When do you open in winter?,,At ten.
Who are you?,,
When do you open in the winter?,,At eleven.
"""


def test_findings_reasons_and_notes_are_in_the_language_and_words_of_the_page(tmp_path):
    path = tmp_path / "books.csv"
    path.write_text(BOOKS)
    findings = check_pairs(load_pairs(path), near_duplicate_threshold=0.4)
    record = json.loads(json.dumps(findings.to_record()))
    lines = [json.loads(json.dumps(row.to_line())) for row in findings.left_out]
    numbers = RowNumbers.of_record(record)
    rejected = list(map(RejectedRow.from_line, lines))
    with use_language("de"), use_words(PAGE_WORDS):
        shown = unescape(plain(findings_view(record)))
        reasons = plain(rejected_view(rejected, 4, numbers))
        table = rejected_csv(read_table(path), {row.row: row.reason for row in rejected})
    assert "Mit dieser Datei kann kein Projekt beginnen Nur 2 brauchbare Paare: " in shown
    assert 'zum Beispiel Zeile 5, "When do you open in the winter?", und Zeile 2' in shown
    assert "(abschalten mit „Zusammenhang“ unter „Spalten zuordnen“ (nicht verwendet))" in shown
    assert "die Kopfzeile ist Zeile 1" in shown
    assert "3 eine genaue Kopie von Zeile 2" in reasons
    assert "3,eine genaue Kopie von Zeile 2," in table.decode("utf-8-sig")
    for key in ("notes", "problems", "rejected"):
        assert "“" not in str(record[key]) and "Zeile" not in str(record[key])
    assert "data.columns.context=''" in str(record["notes"])
    assert [line["reason"] for line in lines][0] == "an exact duplicate of row 1"


def test_findings_of_earlier_releases_are_shown_in_english(file):
    record = check_pairs(load_pairs(file)).to_record()
    record.pop("said")
    for entry in (record["row_numbers"], *record["problems"]):
        entry.pop("said")
    with use_language("de"):
        shown = unescape(plain(findings_view(record)))
    assert "1 row cannot be used Left out: the answer is empty (1)." in shown
    assert "Row numbers are those that a spreadsheet program shows" in shown
    assert str(RejectedRow.from_line({"row": 1, "reason": "the row is empty"}).reason) == (
        "the row is empty"
    )


def test_the_editor_shows_rows_left_out_first_and_counts_hidden_rows(file):
    first = editor_view(file, {}, None, "")
    assert first.numbers == [401, 403] and "empty" in first.lines[0][1]
    assert first.counts == {"left out": 2, "worth a look": 2, "all": 403}
    whole = editor_view(file, {}, "all", "")
    assert len(whole.lines) == 300 and "first 300 of 403" in whole.note
    assert editor_view(file, {}, "all", "NUMBER 399").numbers == [400]
    assert editor_view(file, {}, "all", "nowhere").note == "No such row."


def test_edits_create_a_new_file_and_edits_of_another_file_are_ignored(file):
    view = editor_view(file, {}, None, "")
    view.lines[0][3] = "Because."
    held = EditorRows(str(file), view.numbers).to_text()
    before = file.read_bytes()
    edited, edits = edited_file(file, {}, held, view.lines)
    assert edits.cells == 1 and edited != file and file.read_bytes() == before
    assert inspect_file(edited, {}).findings.dataset.rows == 403
    for stale in (
        EditorRows("elsewhere", view.numbers).to_text(),
        NO_ROWS.to_text(),
        "",
        "nonsense",
    ):
        assert edited_file(file, {}, stale, view.lines)[0] == file
    assert "left-out" in (left_out_download(edited, {}, "pairs") or "")


def test_leaks_and_unknown_columns_are_shown_with_examples():
    leak = {
        "heldout_row": 3,
        "other_row": 9,
        "split": "train",
        "kind": "near",
        "similarity": 0.9,
        "heldout_question": HOSTILE,
        "other_question": "Why?",
        "removed": True,
    }
    text = leaks_view([leak], 1)
    assert "<img" not in text and "9: Why?" in text and "1 removed from the test" in plain(text)
    assert leaks_view([], 0) == ""
    assert "Match your columns" in unreadable_view({"what": "no columns"}, ["a", "b"])
    assert "too few" in brief_view({"usable": 1, "rows": 4, "can_start": False})


def test_a_file_without_rows_asks_for_rows_and_not_for_columns(tmp_path):
    (tmp_path / "head.csv").write_text("question,answer\n")
    seen = inspect_file(tmp_path / "head.csv", {})
    assert seen.columns == () and seen.error is not None
    assert "Add at least a few" in unreadable_view(seen.error, seen.columns)


def test_the_system_prompt_of_the_study_applies_to_rows_without_one():
    pair = Pair(1, (Message("user", "q"), Message("assistant", "a")))
    briefed = with_system(pair, "Be brief.")
    assert briefed.system == "Be brief."
    assert with_system(briefed, "Other.") is briefed and with_system(pair, None) is pair


def test_the_rows_that_a_study_leaves_out_are_a_download():
    study = with_data(new_study())
    assert (study_left_out(study) is None) == (not study.split_file("rejected").read_text())


def test_the_data_begin_with_what_is_answered_and_left_out_and_fold_the_rest(tmp_path):
    lines = [f"Question {number}?,Answer {number} is this." for number in range(40)]
    path = tmp_path / "sheet.csv"
    path.write_text("\n".join(["question,answer", *lines, "Empty?,"]) + "\n")
    findings = check_pairs(load_pairs(path))
    view = findings_view(findings.to_record())
    first, _, folded = view.partition("<details")
    assert "40 of 41 questions will be answered" in first
    assert "the answer is empty" in first
    assert "Near-duplicates" not in first and "Near-duplicates" in folded
    for term in ("token F1", "ROUGE", "seed"):
        assert term not in view
