"""Formula cells in the list of left-out rows: nothing computes, and what is brought back is what was there."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant_builder.data import load_pairs
from assistant_builder.data.exporting import left_out_csv
from assistant_builder.data.formulas import RESTORED, SIGNS, guarded, unguarded
from assistant_builder.data.reading import read_table

FORMULAS = [
    "=1+1", "+49 30 1234", "-5", "@SUM(A1)", '=HYPERLINK("http://evil.invalid")', "'=kept", "''=twice", "＝1+1",
    "=cmd|' /C calc'!A0", "-2+3+cmd|'a'!B1",
]


@given(st.text() | st.tuples(st.text("'", max_size=3), st.sampled_from(SIGNS), st.text()).map("".join))
def test_a_guard_comes_off_again_and_leaves_no_formula(text):
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(SIGNS)


@pytest.mark.parametrize("column", ["question", "=1+1"])
def test_a_list_that_is_mended_and_brought_back_reads_as_the_rows_did(write, column):
    lines = [["question", "answer", column], *(["", formula, formula] for formula in FORMULAS)]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(lines)
    table = read_table(write("a.csv", out.getvalue()))
    listed = left_out_csv(table, {row.row: "=the question is empty" for row in table.rows})
    cells = [cell for line in csv.reader(io.StringIO(listed.decode("utf-8-sig"))) for cell in line]
    assert not any(cell.startswith(SIGNS) for cell in cells)
    mended = [line[:2] + ["Q?" if place else line[2], *line[3:]]
              for place, line in enumerate(csv.reader(io.StringIO(listed.decode("utf-8-sig"))))]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(mended)
    found = load_pairs(write("mended.csv", out.getvalue()))
    assert [pair.answer for pair in found.pairs] == FORMULAS
    assert found.changes[RESTORED]


def test_apostrophes_of_other_files_stay(write):
    found = load_pairs(write("a.csv", "question,answer\na,'=1+1\n"))
    assert found.pairs[0].answer == "'=1+1" and RESTORED not in found.changes
