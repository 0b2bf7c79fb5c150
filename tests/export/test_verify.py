"""Comparing an export's losses with the measured ones."""

import math

import pytest

from assistant_builder.errors import EvaluationError
from assistant_builder.export.verify import TOLERANCE, compare
from evals.work_items import evenly_spaced

WAS = [("1", 10.0, 10), ("2", 4.0, 8), ("3", 2.0, 2)]


def moved(*by: float) -> list[tuple[float, int]]:
    """The losses, each moved by so much a token."""
    return [(nll + shift * tokens, tokens) for (_, nll, tokens), shift in zip(WAS, by, strict=True)]


def test_equal_losses_are_as_measured():
    found = compare("QD", WAS, moved(0, 0, 0))
    assert found.outcome == "as measured"
    assert found.largest_move == 0
    assert found.moved == 0
    assert found.tokens == 20
    assert found.nll_per_token == found.measured_nll_per_token == 0.8


def test_small_moves_are_within_the_tolerance_and_the_largest_is_reported():
    found = compare("QD", WAS, moved(0.01, -0.02, 0.0))
    assert found.outcome == "as measured" and found.largest_item == "2"
    assert found.largest_move == pytest.approx(0.02)


def test_an_item_beyond_the_tolerance_is_a_warning():
    found = compare("QD", WAS, moved(0, 0, -2 * TOLERANCE))
    assert (found.outcome, found.moved, found.largest_item) == ("moved", 1, "3")


def test_a_sample_worse_by_more_than_the_tolerance_is_another_model():
    with pytest.raises(EvaluationError, match="not the one that was measured"):
        compare("QD", WAS, moved(2 * TOLERANCE, 2 * TOLERANCE, 2 * TOLERANCE))


def test_a_sample_that_is_better_by_more_is_a_warning():
    found = compare("QD", WAS, moved(-2 * TOLERANCE, -2 * TOLERANCE, -2 * TOLERANCE))
    assert (found.outcome, found.moved) == ("moved", 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused(bad):
    with pytest.raises(EvaluationError, match="loss is not finite"):
        compare("QD", WAS, [(bad, 10), (4.0, 8), (2.0, 2)])


def test_other_tokens_are_refused():
    with pytest.raises(EvaluationError, match="other tokens"):
        compare("QD", WAS, [(10.0, 11), (4.0, 8), (2.0, 2)])


def test_the_sample_is_spread_over_all_items():
    assert evenly_spaced(list(range(10)), 20) == list(range(10))
    assert evenly_spaced(list(range(100)), 4) == [12, 37, 62, 87]
    assert evenly_spaced(list(range(7)), 3) == [1, 3, 5]
