"""Detection of text encodings."""

import os

import pytest

from assistant_builder.data import load_pairs
from assistant_builder.errors import DataError

TEXT = "question,answer\nWo liegt das Café?,Gleich links neben der Brücke.\nWas kostet das?,Drei Euro fünfzig.\n"
EXPECTED = [
    ("Wo liegt das Café?", "Gleich links neben der Brücke."),
    ("Was kostet das?", "Drei Euro fünfzig."),
]


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
        ("windows-1252", b"", "Windows-1252: not UTF-8 because of 3 bytes"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_decode_detects_and_notes_the_encoding(write, encoding, mark, note, form):
    text = TEXT
    if form == "jsonl":
        text = "".join(f'{{"question": "{q}", "answer": "{a}"}}\n' for q, a in EXPECTED)
    found = load_pairs(write(f"a.{form}", mark + text.encode(encoding)))
    assert found.format == form and asked(found) == EXPECTED
    reads = [entry for entry in map(str, found.notes) if entry.startswith("read as")]
    assert (not reads) if note is None else (len(reads) == 1 and note in reads[0])


def test_decode_notes_words_of_windows_1252(write):
    note = str(load_pairs(write("a.csv", TEXT.encode("windows-1252"))).notes[0])
    assert (
        note
        == 'read as Windows-1252: not UTF-8 because of 3 bytes (decoded as "Café", "Brücke", "fünfzig")'
    )


def test_decode_accepts_windows_1252_typography(write):
    text = "question,answer\n“How” much – 20 °C?,It’s 5 € … ©\n"
    assert asked(load_pairs(write("a.csv", text.encode("windows-1252")))) == [
        ("“How” much – 20 °C?", "It’s 5 € … ©")
    ]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (
            "question,answer\nГде находится касса парома?,Она стоит у северного причала рядом с маяком.\n",
            "cp1251",
        ),
        (
            "question,answer\nΠού βρίσκεται το γραφείο;,Στέκεται δίπλα στη βόρεια προβλήτα.\n",
            "cp1253",
        ),
        ("question,answer\nGdzie są łódki i mosty?,Leżą koło głównego mostu.\n", "cp1250"),
        ("question,answer\n事務所はどこですか,北の桟橋のそばにあります\n", "shift-jis"),
        ("question,answer\n办公室在哪里,在北码头旁边\n", "gb18030"),
    ],
)
def test_decode_refuses_other_legacy_encodings(write, text, encoding):
    with pytest.raises(DataError, match="encoding is unknown.*Save the file as UTF-8"):
        load_pairs(write("a.csv", (text * 3).encode(encoding)))


def test_decode_reads_chinese_in_utf8_and_utf16(write):
    text = "问题,答案\n办公室在哪里,在北码头旁边\n谁看守灯塔,玛丽特从春天起看守\n"
    for content in (text.encode(), text.encode("utf-16"), text.encode("utf-16-le")):
        found = load_pairs(write("a.csv", content))
        assert found.columns["question"] == "问题" and found.pairs[0].answer == "在北码头旁边"


def test_decode_of_damaged_utf8_rejects_only_damaged_rows(write):
    lines = ["question,answer", *(f"Wo liegt Straße {i}?,Nördlich der Brücke." for i in range(5))]
    data = "\n".join(lines).encode().replace("Straße 2".encode(), b"Stra\xdfe 2")
    found = load_pairs(write("a.csv", data))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (3, "it contains a byte that is not valid UTF-8: 0xDF")
    ]
    assert len(found.pairs) == 4 and any("1 damaged byte " in str(note) for note in found.notes)


def test_decode_refuses_mixed_encodings(write):
    data = (
        "question,answer\nCafé eins,zwei drei\n".encode()
        + "Café zwei,drei vier\n".encode("windows-1252") * 3
    )
    with pytest.raises(DataError, match="the encoding is unknown"):
        load_pairs(write("a.csv", data))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [17, 300, 5000])
def test_decode_refuses_random_bytes(write, size, seed):
    import random

    with pytest.raises(DataError) as caught:
        load_pairs(write("a.csv", random.Random(seed).randbytes(size)))
    assert str(caught.value.remedy)
    assert os.linesep not in str(caught.value)
