"""Growth with pairs, rank and studies, measured by counts and not by the clock."""

import gzip
import json

import pytest

from assistant_builder.ui.home import view
from assistant_builder.ui.home.view import list_studies
from benchmarks.scaling import exponent, generated_pairs, pairs_of, rank_table, table
from tests.synthetic_study import new_study


def test_the_exponent_is_computed_from_two_sizes():
    assert exponent(2.0, 20.0, 10.0) == pytest.approx(1.0)
    assert exponent(2.0, 200.0, 10.0) == pytest.approx(2.0)
    runs = [
        {"rows": rows, "length": 1, "seconds": {"read": rows / 1000}, "bytes": rows}
        for rows in (100, 1000)
    ]
    assert "| read | 0.10 s | 1.00 s | 1.00 |" in table(runs)


def test_pairs_come_from_a_file_and_are_repeated_where_it_has_too_few(tmp_path):
    file = tmp_path / "pairs.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"question": f"q{n}", "answer": "a"}) + "\n" for n in range(3))
    pairs = pairs_of(file, 7, 2)
    assert len({pair["question"] for pair in pairs}) == 7 and pairs[0]["answer"] == "a a"
    assert list(generated_pairs(5)) == list(generated_pairs(5))


def test_memory_of_adapters_is_proportional_to_the_rank():
    ranks = [line.split("|")[1:3] for line in rank_table()[2:]]
    values = {int(rank): int(trained.replace(",", "")) for rank, trained in ranks}
    assert values[64] == 8 * values[8]


def test_repeated_polls_of_the_study_list_read_no_study_again():
    for number in range(3):
        new_study(f"s{number}")
    first = list_studies()
    before = view._read.cache_info().misses
    assert list_studies() == first and view._read.cache_info().misses == before
