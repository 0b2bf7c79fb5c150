"""The simulation against queueing theory, and against what must hold whatever the numbers."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest

from assistant_builder.jobs.room import Ask, Node
from evals.capacity import simulating
from evals.capacity.assumptions import Assumptions
from evals.capacity.figures import Interval, figures_of
from evals.capacity.simulating import Cluster, Run, simulate
from evals.capacity.workload import Arrival, Task, arrivals, busy_seconds, stages_of
from tests.evals.capacity.numbers import made_up

SERVERS, MEAN, LOAD = 4, 60.0, 0.8
ONE = Ask(1.0)


def slots(count: int, cpus: float = 1.0) -> tuple[Node, ...]:
    return (Node("node", cpus, 0.0, 10**12),) * count


def single(at: float, seconds: float, ask: Ask = ONE, kept: float = math.inf) -> Arrival:
    return Arrival(at, ((Task("evaluate", seconds, ask, kept),),))


def poisson(count: int, seed: int) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(MEAN / SERVERS / LOAD, count))
    return [single(float(when), float(takes)) for when, takes in zip(at, rng.exponential(MEAN, count), strict=True)]


def waits(run: Run) -> dict[float, float]:
    return {study.at: study.waits[0][1] for study in run.studies}


def erlang_c(servers: int, offered: float) -> float:
    """Probability that who comes has to wait (Erlang, 1917)."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


class TestTheory:
    @pytest.fixture(scope="class")
    @staticmethod
    def runs() -> list[tuple[Run, float, float]]:
        """Twelve M/M/4 queues, each with the time from which it counts and the last arrival."""
        made = [poisson(2500, seed) for seed in range(12)]
        return [(simulate(each, Cluster(slots(SERVERS))), each[300].at, each[-1].at) for each in made]

    def test_waiting_is_erlang_s(self, runs) -> None:
        offered = SERVERS * LOAD
        expected = erlang_c(SERVERS, offered) * MEAN / (SERVERS - offered)
        means = [np.mean([wait for at, wait in waits(run).items() if at >= begin]) for run, begin, _ in runs]
        found = Interval.of(means)
        assert found.low <= expected <= found.high
        assert found.high - found.low < expected, "an interval that excludes nothing is no use"

    def test_share_that_waits_is_erlang_s(self, runs) -> None:
        found = Interval.of([np.mean([wait > 0 for at, wait in waits(run).items() if at >= begin])
                             for run, begin, _ in runs])
        assert found.low <= erlang_c(SERVERS, SERVERS * LOAD) <= found.high

    def test_utilisation_is_the_load_offered(self, runs) -> None:
        found = Interval.of([figures_of(run, Cluster(slots(SERVERS)), 1.0, begin, end).utilisation
                             for run, begin, end in runs])
        assert found.low <= LOAD <= found.high and found.high - found.low < 0.1

    def test_little_s_law(self, runs) -> None:
        run, _, _ = runs[0]
        end = max(study.done for study in run.studies)
        under_way = figures_of(run, Cluster(slots(SERVERS)), 1.0, 0.0, end).under_way
        assert under_way == pytest.approx(sum(study.seconds for study in run.studies) / end)


def test_24_equal_steps_on_4_slots_take_6_times_one_with_its_overhead() -> None:
    run = simulate([single(0.0, 5.0) for _ in range(24)], Cluster(slots(2, cpus=2.0), overhead_seconds=0.5))
    assert max(study.done for study in run.studies) == pytest.approx(6 * 5.5)


def test_twice_the_nodes_never_make_anybody_wait_longer() -> None:
    studies = poisson(1500, seed=5)
    few, many = (waits(simulate(studies, Cluster(slots(count)))) for count in (SERVERS, 2 * SERVERS))
    assert all(many[at] <= few[at] + 1e-6 for at in few) and sum(many.values()) < sum(few.values()) / 10


class TestStudies:
    ASSUMED = Assumptions(studies_a_day=150, days=1, repetitions=2)

    def studies(self) -> list[Arrival]:
        return arrivals(stages_of(made_up(), 2), self.ASSUMED, repetition=0)

    def test_all_that_came_in_end_also_where_nodes_are_lost(self) -> None:
        studies = self.studies()
        cluster = Cluster(slots(4, cpus=4.0), 0.5, loss_seconds=2 * 3600.0, retries=1)
        run = simulate(studies, cluster)
        assert sorted(study.at for study in run.studies) == [study.at for study in studies]
        assert run.losses > 20 and 0 < sum(study.failed for study in run.studies) < len(studies)

    def test_no_more_is_held_than_there_is(self) -> None:
        run = simulate(self.studies(), Cluster(slots(3, cpus=3.0), 0.5, loss_seconds=3 * 3600.0))
        changes = sorted([(since, cpus) for cpus, since, _ in run.used] + [(end, -cpus) for cpus, _, end in run.used])
        held = list(accumulate(cpus for _, cpus in changes))
        # a node of three processors has room for one step of two and one of one
        assert max(held) <= 9 and min(held) >= 0

    def test_work_is_kept(self) -> None:
        studies = self.studies()
        run = simulate(studies, Cluster(slots(20, cpus=4.0), overhead_seconds=0.5))
        held = sum(cpus * (end - since) for cpus, since, end in run.used)
        assert held == pytest.approx(sum(busy_seconds(study.stages, 0.5) for study in studies))

    def test_a_study_alone_takes_the_longest_of_each_stage(self) -> None:
        (run,) = [simulate([Arrival(0.0, stages_of(made_up(), 1))], Cluster(slots(1, cpus=4.0)))]
        assert run.studies[0].done == pytest.approx(5 + 10 + 600 + 600 + 5)

    def test_more_nodes_wait_less_on_average(self) -> None:
        means = [np.mean([wait for study in simulate(self.studies(), Cluster(slots(count, cpus=4.0))).studies
                          for _, wait in study.waits]) for count in (2, 4, 8)]
        assert means[0] > means[1] > means[2]

    def test_same_seed_same_run_another_repetition_another(self) -> None:
        cluster = Cluster(slots(4, cpus=4.0), loss_seconds=7200.0)
        first, again, other = (simulate(self.studies(), cluster, 0, repetition) for repetition in (0, 0, 1))
        assert first.studies == again.studies and first.studies != other.studies


class TestLosses:
    CLUSTER = Cluster(slots(1), overhead_seconds=2.0, loss_seconds=1.0, back_seconds=20.0, noticed_seconds=10.0)

    @pytest.fixture(autouse=True)
    def lost_at_65(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(simulating, "_lazily", lambda rng, mean: [65.0])

    def test_a_step_carries_on_from_its_last_checkpoint(self) -> None:
        run = simulate([single(0.0, 100.0, kept=30.0)], self.CLUSTER)
        # 63 of 65 s were work, 60 of them kept; the node is back after 20 s, 5 more pass until the lease is safe
        assert run.studies[0].done == pytest.approx(65 + 20 + 2 + 5 + 40) and run.losses == 1
        assert [wait for _, wait in run.studies[0].waits] == pytest.approx([0.0, 10.0])

    def test_without_checkpoints_it_begins_again(self) -> None:
        run = simulate([single(0.0, 100.0, kept=100.0)], self.CLUSTER)
        assert run.studies[0].done == pytest.approx(65 + 20 + 2 + 5 + 100)

    def test_lost_too_often_it_fails_and_what_follows_is_not_begun(self) -> None:
        task = Task("evaluate", 100.0, ONE, 10.0)
        cluster = Cluster(slots(1), loss_seconds=1.0, retries=0)
        run = simulate([Arrival(0.0, ((task,), (task,)))], cluster)
        assert run.studies[0].failed and len(run.studies[0].waits) == 1


class TestSharing:
    def test_memory_is_shared_out_too(self) -> None:
        half = Ask(1.0, memory_bytes=6)
        run = simulate([single(0.0, 10.0, half), single(0.0, 10.0, half)], Cluster((Node("node", 8.0, 0.0, 10),)))
        assert sorted(study.done for study in run.studies) == [10.0, 20.0]

    def test_gpus_are_shared_out_too(self) -> None:
        ask = Ask(1.0, gpus=1.0)
        run = simulate([single(0.0, 10.0, ask)] * 3, Cluster((Node("node", 8.0, 2.0, 10),)))
        assert sorted(study.done for study in run.studies) == [10.0, 10.0, 20.0]

    def test_a_wide_step_holds_up_its_own_shape_alone(self) -> None:
        wide = Ask(2.0)
        run = simulate([single(0.0, 10.0), single(1.0, 10.0, wide), single(2.0, 1.0)], Cluster(slots(1, cpus=2.0)))
        assert [(study.at, study.done) for study in run.studies] == [(2.0, 3.0), (0.0, 10.0), (1.0, 20.0)]

    def test_who_asked_first_is_first(self) -> None:
        run = simulate([single(float(at), 10.0) for at in range(5)], Cluster(slots(1)))
        assert [study.at for study in run.studies] == [0.0, 1.0, 2.0, 3.0, 4.0]

    def test_what_fits_no_node_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no node has room"):
            simulate([single(0.0, 1.0, Ask(3.0))], Cluster(slots(1)))
