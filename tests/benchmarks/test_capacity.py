"""The simulated cluster compared with queueing theory, and the tables of docs/capacity.md."""

import math

import numpy as np
import pytest
from scipy import stats

from assistant_builder.errors import EvaluationError
from benchmarks import capacity
from benchmarks.capacity import Cluster, Step, measured_stages
from benchmarks.doc_tables import read_section
from benchmarks.ray_scheduling import Scheduling

SERVERS, MEAN, LOAD = 4, 60.0, 0.8
ONE_CORE = (1.0, math.inf)


def single(seconds: float, cpus: float = 1.0, memory: float = 0.0) -> capacity.Stages:
    return ((Step("evaluate", seconds, cpus, memory),),)


def poisson(count: int, seed: int) -> list[tuple[float, capacity.Stages]]:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(MEAN / SERVERS / LOAD, count))
    return [
        (float(when), single(float(takes)))
        for when, takes in zip(at, rng.exponential(MEAN, count), strict=True)
    ]


def options(**changes: float) -> object:
    import argparse

    return argparse.Namespace(
        **{name: default for name, (default, _) in capacity.ASSUMPTIONS.items()} | changes
    )


def test_waiting_and_utilisation_match_an_m_m_4_queue():
    offered = SERVERS * LOAD
    terms = [offered**k / math.factorial(k) for k in range(SERVERS)]
    last = offered**SERVERS / math.factorial(SERVERS) * SERVERS / (SERVERS - offered)
    expected = last / (sum(terms) + last) * MEAN / (SERVERS - offered)  # Erlang C
    means, used = [], []
    for seed in range(12):
        submitted = poisson(2500, seed)
        run = Cluster([ONE_CORE] * SERVERS).run(submitted)
        begin, end = submitted[300][0], submitted[-1][0]
        means.append(np.mean([wait for at, wait in run.waits if at >= begin]))
        used.append(
            sum(max(0.0, min(until, end) - max(since, begin)) for _, since, until in run.used)
            / (SERVERS * (end - begin))
        )
    for found, wanted in ((means, expected), (used, LOAD)):
        half = stats.t.ppf(0.975, 11) * np.std(found, ddof=1) / math.sqrt(12)
        assert abs(np.mean(found) - wanted) <= half < wanted / 2


def test_24_equal_steps_on_4_slots_take_6_times_one_with_its_overhead():
    run = Cluster([(2.0, math.inf)] * 2, overhead_seconds=0.5).run([(0.0, single(5.0))] * 24)
    assert max(done for _, done in run.studies) == pytest.approx(6 * 5.5)


def test_a_single_study_takes_the_longest_step_of_each_stage():
    assert [[step.name for step in stage] for stage in measured_stages()] == [
        ["data"],
        ["data-embed"],
        ["train-lora", "train-qlora"],
        ["evaluate"],
        *([["formats"]] if "formats" in capacity.MEASURED["steps"] else []),
        ["report"],
    ]
    run = Cluster([(4.0, 64e9)]).run([(0.0, measured_stages())])
    assert run.studies[0][1] == pytest.approx(
        sum(max(step.seconds for step in stage) for stage in measured_stages())
    )


def test_a_request_that_does_not_fit_blocks_its_own_shape_only():
    submitted = [(0.0, single(10.0)), (1.0, single(10.0, 2.0)), (2.0, single(1.0))]
    assert Cluster([(2.0, math.inf)]).run(submitted).studies == [
        (2.0, 3.0),
        (0.0, 10.0),
        (1.0, 20.0),
    ]


def test_memory_is_shared_too_and_a_step_that_fits_no_node_is_refused():
    run = Cluster([(8.0, 10.0)]).run([(0.0, single(10.0, memory=6.0))] * 2)
    assert sorted(done for _, done in run.studies) == [10.0, 20.0]
    with pytest.raises(EvaluationError, match="fits no node"):
        Cluster([ONE_CORE]).run([(0.0, single(1.0, 3.0))])


def test_office_hours_and_durations_are_as_assumed():
    given = options(studies_a_day=20_000, days=1)
    found = capacity.arrivals(single(1.0), given, "office", 0)
    hours = np.array([at for at, _ in found]) % capacity.DAY / 3600
    assert np.mean((hours >= 8) & (hours < 18)) == pytest.approx(0.9, abs=0.01)
    seconds = np.array([stages[0][0].seconds for _, stages in found])
    assert seconds.mean() == pytest.approx(1, abs=0.02)
    assert seconds.std() == pytest.approx(0.5, rel=0.05)
    assert found == capacity.arrivals(single(1.0), given, "office", 0)
    assert found != capacity.arrivals(single(1.0), given, "office", 1)


def test_the_fewest_nodes_that_meet_the_goal_are_found():
    small = options(studies_a_day=200, days=1, repetitions=2, node_cpus=4)
    nodes, found = capacity.nodes_needed(small, "even")
    goal = {number: one["within"][0] - one["within"][1] >= 0.95 for number, one in found.items()}
    assert set(found) == {nodes - 1, nodes, 2 * nodes} - {0}
    assert goal[nodes] and goal[2 * nodes] and not goal.get(nodes - 1, False)
    with pytest.raises(EvaluationError, match="no number of nodes"):
        capacity.nodes_needed(
            options(studies_a_day=50, days=1, repetitions=2, goal_hours=0.1), "even"
        )


def test_the_page_shows_what_the_code_computes():
    defaults = options()
    assert read_section("measured", capacity.PAGE) == capacity.measured_section()
    assert read_section("storage", capacity.PAGE) == capacity.storage_section(defaults)
    nodes = int(read_section("queueing", capacity.PAGE).splitlines()[-2].split("|")[2])
    assert read_section("limits", capacity.PAGE) == capacity.limits_section(defaults, nodes)


def test_scheduling_figures_are_per_slot():
    found = Scheduling(steps=10, slots=4, seconds=2.0, start_seconds=1.0, wall_seconds=9.0)
    assert found.ideal_seconds == 6.0 and found.excess == pytest.approx(0.5)
    assert found.overhead_seconds == pytest.approx(1.2)
