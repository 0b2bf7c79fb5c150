"""Which trainings are given up."""

from assistant_builder.atomic_io import append_jsonl
from assistant_builder.sweep.spec import Curve, curve_of, should_prune


def curve(*losses: float, of: int = 4) -> Curve:
    return tuple(((place + 1) / of, loss) for place, loss in enumerate(losses))


FINISHED = [curve(3.0, 2.0, 1.5, 1.0), curve(3.2, 2.2, 1.7, 1.2), curve(3.4, 2.4, 1.9, 1.4)]


def test_worse_than_the_median_at_the_same_place_is_hopeless():
    assert should_prune(curve(3.0, 2.3), FINISHED)
    assert not should_prune(curve(3.0, 2.2), FINISHED)
    assert not should_prune(curve(3.0, 2.1), FINISHED)
    assert should_prune(curve(3.0, 2.0, 2.0), FINISHED)


def test_the_best_so_far_counts_not_the_last():
    assert not should_prune(curve(2.1, 9.0), FINISHED)


def test_too_early_too_few_and_too_late_to_judge():
    assert not should_prune((), FINISHED)
    assert not should_prune(curve(99.0), FINISHED)
    assert not should_prune(curve(99.0, 99.0), FINISHED[:2])
    assert not should_prune(curve(99.0, 99.0), [])
    assert not should_prune(curve(99.0, 99.0, 99.0, 99.0), FINISHED), (
        "it has come to its end: nothing would be saved"
    )


def test_trainings_of_other_lengths_are_compared_at_equal_shares():
    often = [curve(3.1, 3.0, 2.5, 2.0, 1.7, 1.5, 1.2, 1.0, of=8)] * 3
    assert should_prune(curve(3.0, 2.1), often) and not should_prune(curve(3.0, 1.9), often)
    # a quarter of 61 steps is no whole step
    uneven = [((0.246, 3.0), (0.508, 2.0), (1.0, 1.0))] * 3
    assert should_prune(curve(3.0, 2.1), uneven) and not should_prune(curve(3.0, 2.0), uneven)


def test_a_curve_is_read_from_the_validations(tmp_path):
    assert curve_of(tmp_path) == ()
    for event in (
        {"event": "step", "step": 1, "steps": 8, "loss": 9.0},
        {"event": "validation", "step": 2, "steps": 8, "loss": 3.0},
        {"event": "validation", "step": 4, "steps": 8, "loss": 2.0},
    ):
        append_jsonl(tmp_path / "metrics.jsonl", event)
    assert curve_of(tmp_path) == ((0.25, 3.0), (0.5, 2.0))
