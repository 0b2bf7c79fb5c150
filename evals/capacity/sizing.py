"""How many nodes a load takes."""

from __future__ import annotations

import math
from functools import cache

from assistant_builder.errors import EvaluationError
from assistant_builder.jobs.room import Node
from evals.capacity.assumptions import DAY_SECONDS, Assumptions
from evals.capacity.figures import Estimate, estimate
from evals.capacity.measured import Measured
from evals.capacity.simulating import Cluster
from evals.capacity.workload import Stages, alone_seconds, arrivals, busy_seconds, stages_of


def cluster_of(measured: Measured, assumptions: Assumptions, nodes: int) -> Cluster:
    """A cluster of nodes alike."""
    node = Node("node", float(assumptions.node_cpus), float(assumptions.node_gpus),
                round(assumptions.node_memory_gb * 1e9))
    return Cluster(
        (node,) * nodes, measured.overhead_seconds, assumptions.loss_hours * 3600, assumptions.back_minutes * 60,
        assumptions.noticed_seconds,
    )


def offered_nodes(measured: Measured, assumptions: Assumptions) -> float:
    """Nodes that would be busy all the time: fewer can never keep up."""
    stages = stages_of(measured, assumptions.seeds)
    busy = busy_seconds(stages, measured.overhead_seconds) * assumptions.studies_a_day / DAY_SECONDS
    return busy / assumptions.node_cpus


def nodes_needed(measured: Measured, assumptions: Assumptions) -> Estimate:
    """The fewest nodes with which the goal is met, its interval included.

    More nodes are taken to do no worse, so that half of the range can be left out at every look.

    Raises:
        EvaluationError: A step fits no node, or no number of nodes would do.
    """
    stages = stages_of(measured, assumptions.seeds)
    _require_room(stages, measured, assumptions)
    _require_possible(stages, assumptions)

    @cache
    def with_nodes(nodes: int) -> Estimate:
        return estimate(stages, cluster_of(measured, assumptions, nodes), assumptions)

    least = max(1, math.ceil(offered_nodes(measured, assumptions)))
    most = least
    while with_nodes(most)["within"].low < assumptions.goal_share:
        least, most = most + 1, 2 * most
    while least < most:
        middle = (least + most) // 2
        if with_nodes(middle)["within"].low < assumptions.goal_share:
            least = middle + 1
        else:
            most = middle
    return with_nodes(least)


def _require_room(stages: Stages, measured: Measured, assumptions: Assumptions) -> None:
    (node,) = cluster_of(measured, assumptions, 1).nodes
    for task in (task for stage in stages for task in stage):
        if not task.ask.fits(node):
            raise EvaluationError(
                f"it asks for {task.ask.cpus:g} processors, {task.ask.gpus:g} GPUs and "
                f"{task.ask.memory_bytes / 1e9:.2f} GB, and a node has less", where=f"step {task.step}",
                remedy="Raise --node-cpus, --node-gpus or --node-memory-gb",
            )


def _require_possible(stages: Stages, assumptions: Assumptions) -> None:
    goal = assumptions.goal_hours * 3600
    alone = [alone_seconds(each.stages) for each in arrivals(stages, assumptions, 0)]
    share = sum(seconds <= goal for seconds in alone) / max(1, len(alone))
    if share <= assumptions.goal_share:
        raise EvaluationError(
            f"no number of nodes does it: only {share:.1%} of the studies are done in {assumptions.goal_hours:g} hours "
            "where none waits", where="--goal-hours", remedy="Raise --goal-hours, or lower --goal-share or --variation",
        )
