"""Growth with pairs, rank and studies, measured by counts and not by the clock."""

from assistant_builder.ui.home import view
from assistant_builder.ui.home.view import list_studies
from benchmarks.scaling import rank_table
from tests.synthetic_study import new_study


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
