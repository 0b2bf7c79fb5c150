"""Row numbers as a spreadsheet program shows them, and files that are no tables."""

import io
import zipfile

import pytest

from assistant_builder.data import check_pairs, load_pairs
from assistant_builder.data.columns import guess_columns
from assistant_builder.data.edit import apply_edits, edit_grid, write_rows
from assistant_builder.data.reading_process import read_table
from assistant_builder.data.types import RowNumbers
from assistant_builder.errors import DataError
from assistant_builder.i18n import Rows, joined, m, render, use_row_numbers
from tests.data.samples import xlsx_bytes


def test_rows_of_a_sheet_have_the_numbers_of_the_sheet(tmp_path):
    path = tmp_path / "faq.xlsx"
    rows = [["Our FAQ"], [], ["question", "answer"], ["Open?", "At ten."], ["Open?", "At ten."]]
    path.write_bytes(xlsx_bytes(rows))
    findings = check_pairs(load_pairs(path))
    numbers = findings.dataset.numbers
    assert [numbers.shown(pair.row) for pair in findings.dataset.pairs] == [4, 5]
    assert "sheet 'Pairs'" in str(numbers.note)
    with use_row_numbers(numbers.shown):
        assert render(findings.left_out[0].reason) == "an exact duplicate of row 4"
    assert numbers.row_of(5) == 2 and findings.to_record()["rejected"] == []


def test_blank_lines_of_a_csv_count_as_rows_of_the_sheet(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text('question,answer\n"Open\nnow?",At ten.\n\nWho?,Me.\nWhere?,Here.\n')
    table = read_table(path)
    assert [table.numbers.shown(row.row) for row in table.rows] == [2, 4, 5]
    assert "header is row 1" in str(table.numbers.note)
    assert [table.numbers.row_of(shown) for shown in (2, 4, 5)] == [1, 2, 3]


def test_messages_are_renumbered_but_their_other_values_are_not():
    numbers = RowNumbers("", ((1, 1), (5, 2)))
    message = joined(
        (
            m("rows {rows} answer {question}", rows=Rows((1, 4, 5)), question="Is row 3 free?"),
            m("like row {row}", row=Rows((9,))),
        )
    )
    shown = "rows 2, 5 and 7 answer Is row 3 free? like row 11"
    assert str(numbers.in_message(message)) == shown
    with use_row_numbers(numbers.shown):
        assert render(message) == shown
    assert numbers.in_message("row 3") == "row 3"


def test_the_error_of_an_unusable_sheet_has_its_row_numbers(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\nOpen?,At ten.\nOpen?,At ten.\n")
    with pytest.raises(DataError, match=r"\(row 3: an exact duplicate of row 2\)"):
        check_pairs(load_pairs(path)).require_start()


def test_an_edited_copy_keeps_the_numbers_of_the_sheet(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\nOpen?,At ten.\nWho?,\n")
    table = read_table(path)
    lines = edit_grid(table, [2], {2: m("the answer of row {row} is empty", row=Rows((2,)))})
    assert lines == [["3", "the answer of row 3 is empty", "Who?", ""]]
    rows, edits = apply_edits(table, [2], [["3", "", "Who?", "Me."]])
    write_rows(rows, tmp_path / "copy.jsonl", table.numbers)
    copy = load_pairs(tmp_path / "copy.jsonl")
    assert edits.cells == 1
    assert [pair.row for pair in copy.pairs] == [2, 3]
    assert copy.pairs[1].answer == "Me."


def word_document() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "faq.xlsx",
            b"When do you open? At ten.\nWho are you? A bakery.\n",
            "this is a text file and not a workbook",
        ),
        ("faq.txt", b"When do you open? At ten.\nWho are you? A bakery.\n", "text in one column"),
        ("faq.pdf", b"%PDF-1.7", "this is a PDF document"),
        ("faq.docx", word_document(), "this is a Word document"),
    ],
)
def test_what_is_no_table_says_how_to_get_one(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load_pairs(tmp_path / name)
    assert says in str(error.value.what)
    assert "into one row of a spreadsheet" in str(error.value.remedy)


def test_columns_are_guessed_by_their_content(tmp_path):
    path = tmp_path / "faq.csv"
    rows = "".join(
        f"{n},Was kostet Brot {n}?,Es kostet {n} Euro am Samstag.,Preise\n" for n in range(9)
    )
    path.write_text(f"Nr,Wunsch,Wir sagen,Thema\n{rows}")
    with pytest.raises(DataError) as error:
        load_pairs(path)
    assert "--set data.columns.question='Wunsch' --set data.columns.answer='Wir sagen'" in str(
        error.value.remedy
    )
    # one answer to three wordings
    wordings = "".join(f"Was kostet Brot {n}?,Brot {n // 3} kostet drei Euro\n" for n in range(90))
    path.write_text(f"Wunsch,Wir sagen\n{wordings}")
    assert guess_columns(read_table(path)) == {"question": "Wunsch", "answer": "Wir sagen"}
    path.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError) as error:
        load_pairs(path)
    assert "content" not in str(error.value.remedy)


def test_a_guess_with_an_endless_column_name_is_not_repeated(tmp_path):
    path = tmp_path / "faq.csv"
    rows = "".join(f"Who rows boat {row}?,Otto rows boat {row}.\n" for row in range(9))
    path.write_text(f"question,{'9' * 9_000}\n{rows}")
    with pytest.raises(DataError, match="no answer column found") as caught:
        load_pairs(path)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("title", "header", "row"),
    [
        ("Bikes", "question,answer", 3),
        ("Bikes\n", "question,answer", 4),
        ("Bikes,", "What they ask,What we say", 3),
        ('"Bikes";', "question;answer", 3),
    ],
)
def test_a_title_above_the_columns_of_a_csv_file_is_no_header(tmp_path, title, header, row):
    path, sign = tmp_path / "faq.csv", ";" if ";" in header else ","
    path.write_text(f"{title}\n{header}\n" + f"What is it?{sign}It is a bike.\n" * 3)
    table = read_table(path)
    assert list(table.columns) == header.split(sign) and len(table.rows) == 3
    assert table.numbers.shown(1) == row


@pytest.mark.parametrize("text", ["question\nWhat, then?\n", "Bikes\n1,2\n", "question,answer\n"])
def test_a_line_that_can_be_a_header_is_no_title(tmp_path, text):
    (tmp_path / "faq.csv").write_text(text + "a,b\n")
    assert read_table(tmp_path / "faq.csv").columns[0] == text.split("\n")[0].split(",")[0]
