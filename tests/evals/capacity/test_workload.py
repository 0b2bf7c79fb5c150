"""What comes in: how much of it, when, and how large; and how many nodes that takes."""

from __future__ import annotations

import numpy as np
import pytest

from assistant_builder.errors import ConfigError, EvaluationError
from evals.capacity.assumptions import DAY_SECONDS, Assumptions, command_line
from evals.capacity.sizing import nodes_needed, offered_nodes
from evals.capacity.workload import (
    CHECKPOINT_SECONDS,
    alone_seconds,
    arrivals,
    busy_seconds,
    scaled,
    sizes,
    stages_of,
    times_of_day,
)
from tests.evals.capacity.numbers import made_up


def test_both_arms_and_all_seeds_train_at_once() -> None:
    names = [[task.step for task in stage] for stage in stages_of(made_up(), 2)]
    assert names == [["data"], ["data-embed"], ["train-lora", "train-qlora", "train-lora-2", "train-qlora-2"],
                     ["evaluate"], ["report"]]


def test_time_and_processors_of_a_study() -> None:
    stages = stages_of(made_up(), 1)
    assert alone_seconds(stages) == 1220 and busy_seconds(stages) == 2 * 1800 + 20
    assert busy_seconds(stages, overhead=1.0) == 2 * 1803 + 23


def test_only_what_computes_on_processors_asks_for_memory() -> None:
    asks = {task.step: task.ask.memory_bytes for stage in stages_of(made_up(), 1) for task in stage}
    assert asks["train-lora"] == asks["evaluate"] == 2_000_000_000 and asks["data"] == asks["report"] == 0


def test_as_many_come_as_are_said() -> None:
    assumed = Assumptions(studies_a_day=1000, days=9)
    found = arrivals(stages_of(made_up(), 1), assumed, 0)
    assert len(found) == pytest.approx(10_000, abs=4 * 100)
    moments = [each.at for each in found]
    assert moments == sorted(moments) and max(moments) < 10 * DAY_SECONDS


def test_the_same_repetition_has_the_same_studies() -> None:
    stages, assumed = stages_of(made_up(), 1), Assumptions(studies_a_day=50, days=1)
    assert arrivals(stages, assumed, 3) == arrivals(stages, assumed, 3) != arrivals(stages, assumed, 4)


def test_nine_in_ten_come_in_office_hours() -> None:
    rng = np.random.default_rng(0)
    hours = times_of_day(rng, 20_000, "office") / 3600
    assert hours.min() >= 0 and hours.max() < 24
    assert np.mean((hours >= 8) & (hours < 18)) == pytest.approx(0.9, abs=0.01)
    even = times_of_day(rng, 20_000, "even") / 3600
    assert np.mean((even >= 8) & (even < 18)) == pytest.approx(10 / 24, abs=0.015)


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.5])
def test_sizes_have_the_mean_and_the_variation_that_are_said(variation: float) -> None:
    found = sizes(np.random.default_rng(1), 400_000, variation)
    assert found.mean() == pytest.approx(1, abs=0.02)
    assert found.std() / found.mean() == pytest.approx(variation, rel=0.05, abs=1e-9)


def test_a_large_training_keeps_checkpoints_by_the_clock() -> None:
    large = scaled(stages_of(made_up(), 1), 10.0)
    by_step = {task.step: task for stage in large for task in stage}
    assert by_step["train-lora"].seconds == 6000 and by_step["train-lora"].kept_seconds == CHECKPOINT_SECONDS
    assert by_step["evaluate"].kept_seconds == 600


class TestSizing:
    ASSUMED = Assumptions(studies_a_day=200, days=1, repetitions=3, goal_hours=1.0, node_cpus=4)

    def test_takes_the_fewest_nodes_that_meet_the_goal(self) -> None:
        found = nodes_needed(made_up(), self.ASSUMED)
        assert found["within"].low >= 0.95
        offered = offered_nodes(made_up(), self.ASSUMED)
        assert found.nodes >= offered == pytest.approx(200 * 3623 / 86_400 / 4, rel=0.001)
        looser = nodes_needed(made_up(), self.ASSUMED.model_copy(update={"goal_hours": 4.0}))
        assert looser.nodes < found.nodes

    def test_says_where_no_nodes_would_do(self) -> None:
        with pytest.raises(EvaluationError, match="no number of nodes"):
            nodes_needed(made_up(), self.ASSUMED.model_copy(update={"goal_hours": 0.3}))

    def test_says_where_a_step_fits_no_node(self) -> None:
        with pytest.raises(EvaluationError, match="step train-lora"):
            nodes_needed(made_up(), self.ASSUMED.model_copy(update={"node_cpus": 1}))


def test_the_command_line_is_the_one_that_was_given() -> None:
    assert command_line(Assumptions()) == "python -m evals.capacity --write"
    assert "--studies-a-day 5.0 --profile even" in command_line(Assumptions(studies_a_day=5, profile="even"))
    with pytest.raises(ConfigError, match="--days"):
        import argparse

        from evals.capacity.assumptions import add_options, read_options

        parser = argparse.ArgumentParser()
        add_options(parser)
        read_options(parser.parse_args(["--days", "0"]))
