"""Encodings, separators, quoting and broken rows of delimited text."""

from __future__ import annotations

import os

import pytest

from assistant_builder.data import load_pairs
from assistant_builder.errors import DataError

TEXT = "question,answer\nWo liegt das Café?,Gleich links neben der Brücke.\nWas kostet das?,Drei Euro fünfzig.\n"
EXPECTED = [("Wo liegt das Café?", "Gleich links neben der Brücke."), ("Was kostet das?", "Drei Euro fünfzig.")]


def asked(found):
    return [(p.question, p.answer) for p in found.pairs]


@pytest.mark.parametrize(
    ("encoding", "mark", "note"),
    [
        ("utf-8", b"", None),
        ("utf-8", b"\xef\xbb\xbf", "UTF-8 with byte order mark"),
        ("utf-16-le", b"\xff\xfe", "UTF-16, little-endian, with byte order mark"),
        ("utf-16-be", b"\xfe\xff", "UTF-16, big-endian, with byte order mark"),
        ("utf-16-le", b"", "UTF-16, little-endian, without byte order mark"),
        ("utf-16-be", b"", "UTF-16, big-endian, without byte order mark"),
        ("utf-32-le", b"\xff\xfe\0\0", "UTF-32"),
        ("windows-1252", b"", "Windows-1252: 3 bytes are not UTF-8"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_encodings_are_told_and_said(write, encoding, mark, note, form):
    text = TEXT
    if form == "jsonl":
        text = "".join(f'{{"question": "{q}", "answer": "{a}"}}\n' for q, a in EXPECTED)
    found = load_pairs(write(f"a.{form}", mark + text.encode(encoding)))
    assert found.format == form and asked(found) == EXPECTED
    reads = [entry for entry in found.notes if entry.startswith("read as")]
    assert (not reads) if note is None else (len(reads) == 1 and note in reads[0])


def test_windows_1252_note_shows_words(write):
    note = load_pairs(write("a.csv", TEXT.encode("windows-1252"))).notes[0]
    assert note == 'read as Windows-1252: 3 bytes are not UTF-8 (they read as "Café", "Brücke", "fünfzig")'


def test_windows_1252_typography(write):
    text = "question,answer\n“How” much – 20 °C?,It’s 5 € … ©\n"
    assert asked(load_pairs(write("a.csv", text.encode("windows-1252")))) == [("“How” much – 20 °C?", "It’s 5 € … ©")]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("question,answer\nГде находится касса парома?,Она стоит у северного причала рядом с маяком.\n", "cp1251"),
        ("question,answer\nΠού βρίσκεται το γραφείο;,Στέκεται δίπλα στη βόρεια προβλήτα.\n", "cp1253"),
        ("question,answer\nGdzie są łódki i mosty?,Leżą koło głównego mostu.\n", "cp1250"),
        ("question,answer\n事務所はどこですか,北の桟橋のそばにあります\n", "shift-jis"),
        ("question,answer\n办公室在哪里,在北码头旁边\n", "gb18030"),
    ],
)
def test_other_legacy_encodings_are_refused_with_the_remedy(write, text, encoding):
    with pytest.raises(DataError, match="encoding cannot be told.*Save the file as UTF-8"):
        load_pairs(write("a.csv", (text * 3).encode(encoding)))


def test_chinese_in_utf8_and_utf16(write):
    text = "问题,答案\n办公室在哪里,在北码头旁边\n谁看守灯塔,玛丽特从春天起看守\n"
    for content in (text.encode(), text.encode("utf-16"), text.encode("utf-16-le")):
        found = load_pairs(write("a.csv", content))
        assert found.columns["question"] == "问题" and found.pairs[0].answer == "在北码头旁边"


def test_damaged_utf8_costs_only_the_rows_with_damage(write):
    lines = ["question,answer", *(f"Wo liegt Straße {i}?,Nördlich der Brücke." for i in range(5))]
    data = "\n".join(lines).encode().replace("Straße 2".encode(), b"Stra\xdfe 2")
    found = load_pairs(write("a.csv", data))
    assert [(r.row, r.reason) for r in found.rejected] == [(3, "it holds the byte 0xDF, which is not UTF-8")]
    assert len(found.pairs) == 4 and any("1 bytes are damaged" in note for note in found.notes)


def test_mixture_of_encodings_is_refused(write):
    data = "question,answer\nCafé eins,zwei drei\n".encode() + "Café zwei,drei vier\n".encode("windows-1252") * 3
    with pytest.raises(DataError, match="cannot be told"):
        load_pairs(write("a.csv", data))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [17, 300, 5000])
def test_random_bytes_are_refused(write, size, seed):
    import random

    with pytest.raises(DataError) as caught:
        load_pairs(write("a.csv", random.Random(seed).randbytes(size)))
    assert caught.value.remedy
    assert os.linesep not in str(caught.value)


def test_zero_bytes_in_utf8_are_cleaned_and_said(write):
    found = load_pairs(write("a.csv", b"question,answer\nWhere is\0 it?,It is\x07 there.\x0c\nAnd now?,Still there.\n"))
    assert asked(found)[0] == ("Where is it?", "It is there.")
    assert found.changes == {"control characters were removed": (1,)}


def test_control_codes_that_were_windows_1252_are_restored(write):
    found = load_pairs(write("a.jsonl", '{"question": "Why?", "answer": "It\\u0092s so"}\n'))
    assert found.pairs[0].answer == "It’s so"
    assert list(found.changes.values()) == [(1,)]


def test_lone_surrogates_are_rejected_with_the_code(write):
    text = '{"question": "Why?", "answer": "so \\ud83d"}\n{"question": "q", "answer": "\\ud83d\\ude00 x"}\n'
    found = load_pairs(write("a.jsonl", text))
    assert found.rejected[0].reason == "it holds half a character (the lone surrogate U+D83D)"
    assert found.pairs[0].answer == "😀 x"


def test_line_ends_inside_text_become_newlines(write):
    found = load_pairs(write("a.csv", b'question,answer\r\n"a\r\nb","c\rd"\r\n'))
    assert asked(found) == [("a\nb", "c\nd")]


# separators and quoting


@pytest.mark.parametrize(("separator", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")])
def test_separators(write, separator, name):
    rows = [("Frage", "Antwort", "group"), ("Was, bitte; sehr?", "Nichts | gar nichts", "a"), ("Wo?", "Da, dort.", "b")]
    text = "".join(separator.join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    found = load_pairs(write("a.csv", text))
    assert asked(found) == [row[:2] for row in rows[1:]]
    assert f"separator {name}: 3 columns, found in 100% of the first 3 lines" in found.notes
    assert found.format == ("tsv" if separator == "\t" else "csv")


def test_separator_is_found_in_unquoted_text_full_of_commas(write):
    text = "question;answer\n" + "Well, what, pray, is it?;It is, I think, a boat, or so.\n" * 3
    assert len(load_pairs(write("a.csv", text)).pairs) == 3


def test_declared_separator(write):
    found = load_pairs(write("a.csv", "sep=;\nquestion;answer\na, b;c d\n"))
    assert asked(found) == [("a, b", "c d")] and "the first line declares the separator ';'" in found.notes


def test_ambiguous_separator_is_refused(write):
    with pytest.raises(DataError, match="comma and semicolon fit the rows equally well"):
        load_pairs(write("a.csv", "thema,x;text\n1,2;3\n4,5;6\n"))


def test_unambiguous_once_mapped(write):
    path = write("a.csv", "thema;x,text\n1;2,3\n4;5,6\n")
    found = load_pairs(path, columns={"question": "x,text", "answer": "thema"})
    assert asked(found) == [("2,3", "1"), ("5,6", "4")]


def test_doubled_quotes_newlines_and_spaces_before_quotes(write):
    found = load_pairs(write("a.csv", 'question, answer\n"He said ""no"", why?", "two\nlines, yes"\n'))
    assert asked(found) == [('He said "no", why?', "two\nlines, yes")]


def test_backslash_quotes_and_single_quotes(write):
    found = load_pairs(write("a.csv", 'question,answer\n"Say \\"no\\", please","C:\\\\temp, ok"\n"x","y"\n'))
    assert asked(found)[0] == ('Say "no", please', "C:\\\\temp, ok")
    assert 'quotes inside cells are written \\"' in found.notes
    found = load_pairs(write("b.csv", "'question','answer'\n'a, b','c d'\n"))
    assert asked(found) == [("a, b", "c d")] and any("single quotes" in note for note in found.notes)


def test_tsv_with_quotes_that_are_none(write):
    found = load_pairs(write("a.tsv", 'question\tanswer\n"Hello" he said\twhy so\n"Bye\tgone now\n'))
    assert asked(found) == [('"Hello" he said', "why so"), ('"Bye', "gone now")]
    assert any("taken as they stand" in note for note in found.notes)


def test_too_many_and_too_few_cells(write):
    text = "question,answer\na b,c d\nwhat, then,so be it\nalone\ne f,g h,,\n"
    found = load_pairs(write("a.csv", text))
    assert [(r.row, r.reason) for r in found.rejected] == [
        (2, "too many cells: 3, the header has 2 (line 3; a cell that contains a comma must stand in quotes)"),
        (3, "too few cells: 1, the header has 2 (line 4)"),
    ]
    assert asked(found) == [("a b", "c d"), ("e f", "g h")] and [p.row for p in found.pairs] == [1, 4]
    assert found.rejected[0].record == "what, then,so be it"


def test_unclosed_quote_costs_one_row_and_is_said(write):
    text = 'question,answer\na b,c d\n"e f,g h\ni j,k l\nm n,o p\n'
    found = load_pairs(write("a.csv", text))
    assert [(r.row, r.reason) for r in found.rejected] == [(2, "a quote is opened and never closed (line 3)")]
    assert asked(found) == [("a b", "c d"), ("i j", "k l"), ("m n", "o p")]


def test_quote_closed_rows_later_does_not_swallow_them(write):
    text = 'question,answer,group\na b,c d,1\n"e f,g h,1\ni j,k l,1\nm n,o p,1\nq r,s t" u,1\nv w,x y,1\n'
    found = load_pairs(write("a.csv", text))
    assert [r.row for r in found.rejected] == [2] and "not closed" in found.rejected[0].reason
    assert len(found.pairs) == 5


def test_undoubled_inner_quotes_are_rejected(write):
    found = load_pairs(write("a.csv", 'question,answer\n"What is "AI" then?",c d\ne f,5" pipe\n'))
    assert found.rejected[0].row == 1 and "not doubled" in found.rejected[0].reason
    assert asked(found) == [("e f", '5" pipe')]


def test_blank_lines_carriage_returns_and_missing_last_newline(write):
    found = load_pairs(write("a.csv", b"\nquestion,answer\r\r\na b,c d\r\r\n\r\r\ne f,g h"))
    assert [p.row for p in found.pairs] == [1, 2] and any("blank lines" in note for note in found.notes)
    assert len(load_pairs(write("b.csv", b"question,answer\ra b,c d\re f,g h\r")).pairs) == 2


def test_rows_of_empty_cells_are_rejected_as_empty(write):
    found = load_pairs(write("a.csv", 'question,answer\n,\na b,\n,c d\n"  ","\u200b"\ne f,g h\n'))
    assert [(r.row, r.reason) for r in found.rejected] == [
        (1, "the row is empty"), (2, "the answer is empty"), (3, "the question is empty"), (4, "the row is empty"),
    ]  # fmt: skip


def test_long_answers_and_suspiciously_long_records(write):
    long = "word " * 60_000
    found = load_pairs(write("a.csv", f'question,answer\na b,"{long}"\n' + 'c d,"' + "line\n" * 50 + '"\n'))
    assert len(found.pairs) == 2 and len(found.pairs[0].answer) > 200_000
    assert [rows for what, rows in found.changes.items() if "40 lines" in what] == [(2,)]


def test_csv_under_a_json_name(write):
    found = load_pairs(write("a.jsonl", "question,answer\na b,c d\n"))
    assert found.format == "csv" and "though the name ends in .jsonl" in found.notes[0]
