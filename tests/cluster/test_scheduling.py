"""What scheduling costs: 24 steps that sleep, on the four processors of three nodes."""

from __future__ import annotations

import pytest

from evals.bench.scheduling import Scheduling, measure
from tests.cluster.conftest import Nodes


def test_twenty_four_steps_on_four_slots_take_little_more_than_they_sleep(nodes: Nodes) -> None:
    found = []
    while len(found) < 3 and not (found and found[-1].excess < 0.15):  # whatever else the machine does is measured too
        found.append(measure(nodes.address, steps=24, slots=4, seconds=4.0))
    assert found[-1].ideal_seconds == 24.0
    assert found[-1].excess < 0.15, found
    assert found[-1].overhead_seconds < 3.0, found


def test_the_figures_are_those_of_a_slot() -> None:
    found = Scheduling(steps=10, slots=4, seconds=2.0, start_seconds=1.0, wall_seconds=9.0)
    assert found.ideal_seconds == 6.0 and found.excess == pytest.approx(0.5)
    assert found.overhead_seconds == pytest.approx(1.2)
