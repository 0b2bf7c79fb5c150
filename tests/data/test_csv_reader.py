"""Separators, quoting and broken rows of CSV and TSV files."""

import pytest

from assistant_builder.data import load_pairs
from assistant_builder.errors import DataError


def asked(found):
    return [(p.question, p.answer) for p in found.pairs]


@pytest.mark.parametrize(
    ("separator", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")]
)
def test_read_csv_detects_the_separator(write, separator, name):
    rows = [
        ("Frage", "Antwort", "group"),
        ("Was, bitte; sehr?", "Nichts | gar nichts", "a"),
        ("Wo?", "Da, dort.", "b"),
    ]
    text = "".join(separator.join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    found = load_pairs(write("a.csv", text))
    assert asked(found) == [row[:2] for row in rows[1:]]
    assert f"separator {name}: 3 columns in 100% of the first 3 lines" in map(str, found.notes)
    assert found.format == ("tsv" if separator == "\t" else "csv")


def test_read_csv_detects_the_separator_in_text_full_of_commas(write):
    text = "question;answer\n" + "Well, what, pray, is it?;It is, I think, a boat, or so.\n" * 3
    assert len(load_pairs(write("a.csv", text)).pairs) == 3


def test_read_csv_uses_the_declared_separator(write):
    found = load_pairs(write("a.csv", "sep=;\nquestion;answer\na, b;c d\n"))
    assert asked(found) == [("a, b", "c d")]
    assert "the first line declares the separator ';'" in map(str, found.notes)


def test_read_csv_refuses_an_ambiguous_separator(write):
    with pytest.raises(DataError, match="comma and semicolon fit the rows equally well"):
        load_pairs(write("a.csv", "thema,x;text\n1,2;3\n4,5;6\n"))


def test_read_csv_uses_mapped_columns_to_detect_the_separator(write):
    path = write("a.csv", "thema;x,text\n1;2,3\n4;5,6\n")
    found = load_pairs(path, columns={"question": "x,text", "answer": "thema"})
    assert asked(found) == [("2,3", "1"), ("5,6", "4")]


def test_read_csv_reads_doubled_quotes_newlines_and_spaces_before_quotes(write):
    found = load_pairs(
        write("a.csv", 'question, answer\n"He said ""no"", why?", "two\nlines, yes"\n')
    )
    assert asked(found) == [('He said "no", why?', "two\nlines, yes")]


def test_read_csv_detects_backslash_and_single_quotes(write):
    found = load_pairs(
        write("a.csv", 'question,answer\n"Say \\"no\\", please","C:\\\\temp, ok"\n"x","y"\n')
    )
    assert asked(found)[0] == ('Say "no", please', "C:\\\\temp, ok")
    assert 'quotes inside cells are escaped as \\"' in map(str, found.notes)
    found = load_pairs(write("b.csv", "'question','answer'\n'a, b','c d'\n"))
    assert asked(found) == [("a, b", "c d")]
    assert any("single quotes" in str(note) for note in found.notes)


def test_read_csv_reads_tsv_with_literal_quotes(write):
    found = load_pairs(
        write("a.tsv", 'question\tanswer\n"Hello" he said\twhy so\n"Bye\tgone now\n')
    )
    assert asked(found) == [('"Hello" he said', "why so"), ('"Bye', "gone now")]
    assert any("ordinary characters" in str(note) for note in found.notes)


def test_read_csv_rejects_too_many_and_too_few_cells(write):
    text = "question,answer\na b,c d\nwhat, then,so be it\nalone\ne f,g h,,\n"
    found = load_pairs(write("a.csv", text))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (2, "too many cells: 3, the header has 2 (line 3; quote a cell that contains a comma)"),
        (3, "too few cells: 1, the header has 2 (line 4)"),
    ]
    assert asked(found) == [("a b", "c d"), ("e f", "g h")]
    assert [p.row for p in found.pairs] == [1, 4]
    assert found.rejected[0].record == "what, then,so be it"


def test_read_csv_rejects_only_the_row_with_an_unclosed_quote(write):
    text = 'question,answer\na b,c d\n"e f,g h\ni j,k l\nm n,o p\n'
    found = load_pairs(write("a.csv", text))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (2, "a quote is opened and never closed (line 3)")
    ]
    assert asked(found) == [("a b", "c d"), ("i j", "k l"), ("m n", "o p")]


def test_read_csv_recovers_rows_after_a_quote_that_is_closed_later(write):
    text = 'question,answer,group\na b,c d,1\n"e f,g h,1\ni j,k l,1\nm n,o p,1\nq r,s t" u,1\nv w,x y,1\n'
    found = load_pairs(write("a.csv", text))
    assert [r.row for r in found.rejected] == [2] and "not closed" in str(found.rejected[0].reason)
    assert len(found.pairs) == 5


def test_read_csv_rejects_inner_quotes_that_are_not_doubled(write):
    found = load_pairs(write("a.csv", 'question,answer\n"What is "AI" then?",c d\ne f,5" pipe\n'))
    assert found.rejected[0].row == 1 and "not doubled" in str(found.rejected[0].reason)
    assert asked(found) == [("e f", '5" pipe')]


def test_read_csv_accepts_blank_lines_and_any_line_end(write):
    found = load_pairs(write("a.csv", b"\nquestion,answer\r\r\na b,c d\r\r\n\r\r\ne f,g h"))
    assert [p.row for p in found.pairs] == [1, 2]
    assert any("blank lines" in str(note) for note in found.notes)
    assert len(load_pairs(write("b.csv", b"question,answer\ra b,c d\re f,g h\r")).pairs) == 2


def test_read_csv_rejects_empty_rows(write):
    found = load_pairs(write("a.csv", 'question,answer\n,\na b,\n,c d\n"  ","\u200b"\ne f,g h\n'))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (1, "the row is empty"),
        (2, "the answer is empty"),
        (3, "the question is empty"),
        (4, "the row is empty"),
    ]


def test_read_csv_reads_long_cells_and_reports_very_long_records(write):
    long = "word " * 60_000
    found = load_pairs(
        write("a.csv", f'question,answer\na b,"{long}"\n' + 'c d,"' + "line\n" * 50 + '"\n')
    )
    assert len(found.pairs) == 2 and len(found.pairs[0].answer) > 200_000
    assert [rows for what, rows in found.changes.items() if "40 lines" in what] == [(2,)]


def test_read_csv_reads_csv_with_a_json_suffix(write):
    found = load_pairs(write("a.jsonl", "question,answer\na b,c d\n"))
    assert found.format == "csv" and "although the name ends in .jsonl" in str(found.notes[0])
