"""``python -m benchmarks.capacity``: nodes, cost and storage of many studies a day, and the first limits.

It starts from the figures of one finished study (``benchmarks/capacity.json``, which ``python -m
benchmarks.capacity_study`` measures) and simulates a cluster with SimPy. It prints the tables of ``docs/capacity.md``;
with ``--write`` it remakes them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import simpy
from scipy import stats

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.study.steps import needed_before, steps_of
from assistant_builder.ui.home.view import CACHED_SUMMARIES
from benchmarks.doc_tables import markdown_table, write_section
from evals.report.number_format import count, money, percent, size

PAGE = Path(__file__).resolve().parents[1] / "docs" / "capacity.md"
MEASURED: dict[str, Any] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
OVERHEAD_SECONDS: float = MEASURED["scheduling"]["overhead_seconds_a_step"]
DAY = 86_400.0
PERCENTILES = ("_50", "_95", "_99")
OFFICE = (8 * 3600.0, 18 * 3600.0, 0.9)
"""Opening and closing time, and the share of studies that are submitted between them."""
PROFILES = {"even": "evenly over the day", "office": "nine in ten from 8 to 18 o'clock"}
ASSUMPTIONS: dict[str, tuple[float, str]] = {
    "studies_a_day": (1000.0, "Studies submitted a day, as a Poisson process"),
    "variation": (
        0.5,
        "Coefficient of variation of a study's duration (lognormal, one factor for all its steps)",
    ),
    "node_cpus": (16, "CPU cores of a node"),
    "node_memory_gb": (64.0, "Memory of a node, GB"),
    "node_price": (
        0.80,
        "Price of a node and hour, about what clouds charge for 16 cores with 64 GB",
    ),
    "goal_hours": (2.0, "Hours within which a study should be done"),
    "goal_share": (0.95, "Share of studies that should be done by then"),
    "kept_days": (365.0, "Days for which studies are kept; nothing deletes them automatically"),
    "store_tb": (10.0, "Size of the shared store, TB"),
    "days": (2, "Simulated days after the first, which only fills the cluster"),
    "repetitions": (5, "Repetitions of each simulation"),
    "seed": (0, "Seed of all random numbers"),
}


@dataclass(frozen=True)
class Step:
    """A step of a study: its duration in seconds, and the cores and memory that it requests of a node."""

    name: str
    seconds: float
    cpus: float
    memory_bytes: float = 0.0


Stages = tuple[tuple[Step, ...], ...]


def measured_stages() -> Stages:
    """The steps of the measured study; those of one stage run at the same time."""
    steps = [step for step in steps_of(StudyConfig()) if step in MEASURED["steps"]]
    stages = itertools.groupby(steps, key=lambda step: len(needed_before(step, steps)))
    return tuple(
        tuple(Step(name, **MEASURED["steps"][name]) for name in stage) for _, stage in stages
    )


def arrivals(
    stages: Stages, options: argparse.Namespace, profile: str, repetition: int
) -> list[tuple[float, Stages]]:
    """Time of submission and steps of each study, in order; the same for every cluster."""
    rng = np.random.default_rng([options.seed, repetition, 0])
    days, (opens, closes, share) = options.days + 1, OFFICE
    number = rng.poisson(options.studies_a_day * days)
    day = DAY * rng.integers(0, days, number)
    times = rng.random(number) * DAY
    if profile == "office":
        inside = opens + times / DAY * (closes - opens)
        outside = (closes + rng.random(number) * (DAY - (closes - opens))) % DAY
        times = np.where(rng.random(number) < share, inside, outside)
    variance = math.log1p(options.variation**2)
    factors = np.exp(rng.normal(-variance / 2, math.sqrt(variance), number))
    return [
        (
            float(at),
            tuple(
                tuple(replace(step, seconds=step.seconds * float(factor)) for step in stage)
                for stage in stages
            ),
        )
        for at, factor in zip(np.sort(day + times), factors, strict=True)
    ]


class Cluster:
    """A simulated cluster that schedules as Ray does; no node is lost.

    Requests of one shape are served in order, and the node with most free cores is taken. ``nodes`` are the cores and
    the memory in bytes of each.
    """

    def __init__(self, nodes: Sequence[tuple[float, float]], overhead_seconds: float = 0.0) -> None:
        self._env = simpy.Environment()
        self._nodes, self._overhead = tuple(nodes), overhead_seconds
        self._free = [list(node) for node in nodes]
        self._waiting: list[tuple[tuple[float, float], simpy.Event]] = []
        self.studies: list[tuple[float, float]] = []  # submission and end, in the order of the ends
        self.waits: list[
            tuple[float, float]
        ] = []  # time of each request, and seconds until it was granted
        self.used: list[tuple[float, float, float]] = []  # occupied cores, from when to when

    def run(self, submitted: Sequence[tuple[float, Stages]]) -> Cluster:
        """Simulate until the last study has ended."""
        self._env.run(
            self._env.all_of(
                [self._env.process(self._study(at, stages)) for at, stages in submitted]
            )
        )
        return self

    def _study(self, at: float, stages: Stages) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(at)
        for stage in stages:
            yield self._env.all_of([self._env.process(self._step(step)) for step in stage])
        self.studies.append((at, self._env.now))

    def _step(self, step: Step) -> Generator[simpy.Event, Any, None]:
        shape = (step.cpus, step.memory_bytes)
        if not any(shape[0] <= cpus and shape[1] <= memory for cpus, memory in self._nodes):
            raise EvaluationError(
                f"step {step.name} fits no node", remedy="Raise --node-cpus or --node-memory-gb"
            )
        granted, asked = self._env.event(), self._env.now
        self._waiting.append((shape, granted))
        self._serve()
        node = yield granted
        self.waits.append((asked, self._env.now - asked))
        began = self._env.now
        yield self._env.timeout(self._overhead + step.seconds)
        self.used.append((step.cpus, began, self._env.now))
        self._occupy(node, shape, -1)
        self._serve()

    def _serve(self) -> None:
        """Grant requests in the order of submission; a request that fits no node blocks its own shape only."""
        blocked = set()
        for request in tuple(self._waiting):
            (cpus, memory), granted = shape, _ = request
            fitting = (
                []
                if shape in blocked
                else [
                    node
                    for node, free in enumerate(self._free)
                    if cpus <= free[0] and memory <= free[1]
                ]
            )
            if fitting:
                node = max(fitting, key=lambda each: self._free[each][0])
                self._occupy(node, shape, 1)
                self._waiting.remove(request)
                granted.succeed(node)
            else:
                blocked.add(shape)

    def _occupy(self, node: int, shape: tuple[float, float], sign: int) -> None:
        self._free[node] = [
            free - sign * amount for free, amount in zip(self._free[node], shape, strict=True)
        ]


Estimate = dict[str, tuple[float, float]]
"""Mean over the repetitions and half of its 95 % interval, by figure."""


def estimate(options: argparse.Namespace, profile: str, nodes: int) -> Estimate:
    """Simulate a cluster several times; the first day does not count."""
    found: list[dict[str, float]] = []
    begin, end = DAY, (options.days + 1) * DAY
    node = (options.node_cpus, options.node_memory_gb * 1e9)
    for repetition in range(options.repetitions):
        submitted = arrivals(measured_stages(), options, profile, repetition)
        run = Cluster([node] * nodes, OVERHEAD_SECONDS).run(submitted)
        totals = [done - at for at, done in run.studies if begin <= at < end]
        waits = [wait for at, wait in run.waits if begin <= at < end]
        used = sum(
            cpus * max(0.0, min(until, end) - max(since, begin)) for cpus, since, until in run.used
        )
        found.append(
            {
                "used": used / (options.node_cpus * nodes * (end - begin)),
                "within": float(np.mean(np.array(totals) <= options.goal_hours * 3600)),
                **{f"wait{q}": float(np.percentile(waits, int(q[1:]))) for q in PERCENTILES},
                **{f"total{q}": float(np.percentile(totals, int(q[1:]))) for q in PERCENTILES},
            }
        )
    half = stats.t.ppf(0.975, len(found) - 1) / math.sqrt(len(found))
    return {
        name: (
            float(np.mean([one[name] for one in found])),
            float(half * np.std([one[name] for one in found], ddof=1)),
        )
        for name in found[0]
    }


def core_seconds() -> float:
    """Cores of a study times seconds, scheduling included."""
    return sum(
        step.cpus * (step.seconds + OVERHEAD_SECONDS)
        for step in itertools.chain(*measured_stages())
    )


def nodes_needed(options: argparse.Namespace, profile: str) -> tuple[int, dict[int, Estimate]]:
    """The fewest nodes whose 95 % interval meets the goal; estimates of them, of one fewer and of twice as many."""
    run = cache(lambda nodes: estimate(options, profile, nodes))

    def misses(nodes: int) -> bool:
        mean, half = run(nodes)["within"]
        return mean - half < options.goal_share

    least = most = max(
        1, math.ceil(core_seconds() * options.studies_a_day / DAY / options.node_cpus)
    )
    while misses(most):
        if run(most)["wait_99"][0] == 0:  # no study waits, so more nodes change nothing
            raise EvaluationError(
                f"no number of nodes finishes {options.goal_share:.0%} of the studies in "
                f"{options.goal_hours:g} hours",
                remedy="Raise --goal-hours or lower --goal-share",
            )
        least, most = most + 1, 2 * most
    while least < most:
        middle = (least + most) // 2
        least, most = (middle + 1, most) if misses(middle) else (least, middle)
    return least, {nodes: run(nodes) for nodes in (least - 1, least, 2 * least) if nodes}


def measured_section() -> str:
    """The figures that the simulation starts from."""
    steps = markdown_table(
        ("step", "seconds", "cores", "memory"),
        [
            (
                step.name,
                f"{step.seconds:,.1f}",
                f"{step.cpus}",
                size(step.memory_bytes) if step.memory_bytes else "–",
            )
            for step in itertools.chain(*measured_stages())
        ],
    )
    found = MEASURED
    return (
        f"Release {found['release']}: one study of {found['base']} ({count(found['pairs'])} training pairs, "
        f"{count(found['tokens'])} tokens a training, {count(found['heldout'])} held-out pairs) on "
        f"{found['cores']} cores in {found['compute_dtype']}. Scheduling a step with Ray took "
        f"{OVERHEAD_SECONDS:.2f} s of a slot. The home screen takes {1e3 * found['first_listing_seconds']:.2f} ms "
        f"a study when it first lists it and {1e3 * found['listing_seconds']:.2f} ms afterwards.\n\n{steps}"
    )


def queueing_row(
    options: argparse.Namespace, profile: str, nodes: int, found: Estimate
) -> tuple[str, ...]:
    """A row of the queueing table."""
    times = [
        " / ".join(
            f"{found[name + q][0] / 60:,.1f} ± {found[name + q][1] / 60:,.1f}" for q in PERCENTILES
        )
        for name in ("wait", "total")
    ]
    used, within = (
        f"{percent(found[name][0])} ± {100 * found[name][1]:.1f}" for name in ("used", "within")
    )
    costs = [
        money(24 * options.node_price * nodes / studies) for studies in (1, options.studies_a_day)
    ]
    return (PROFILES[profile], str(nodes), used, *times, within, *costs)


def storage_section(options: argparse.Namespace) -> str:
    """Bytes of a study, a day and a year."""
    kept: dict[str, float] = MEASURED["bytes"]
    total = sum(kept.values())
    rows = {**kept, "**total**": total, "**without checkpoints**": total - kept["checkpoints"]}
    return markdown_table(
        ("files", "a study", "a day", "a year"),
        [
            (
                name,
                size(found),
                size(found * options.studies_a_day),
                f"{365 * found * options.studies_a_day / 1e12:.3g} TB",
            )
            for name, found in rows.items()
        ],
    )


def limits_section(options: argparse.Namespace, nodes: int) -> str:
    """Each limit by itself, the lowest first."""
    days, kept, cores = (
        options.kept_days,
        sum(MEASURED["bytes"].values()),
        nodes * options.node_cpus,
    )
    rate = MEASURED["scheduling"]["slots"] / (MEASURED["scheduling"]["seconds"] + OVERHEAD_SECONDS)
    found = [
        (
            CACHED_SUMMARIES / days,
            f"the home screen caches {CACHED_SUMMARIES:,} studies",
            "it then reads all at a refresh",
        ),
        (
            1 / MEASURED["listing_seconds"] / days,
            "a refresh of the home screen takes longer than its interval of 1 s",
            f"{1e3 * MEASURED['listing_seconds']:.2f} ms a study",
        ),
        (
            options.store_tb * 1e12 / kept / days,
            f"disk of {options.store_tb:g} TB",
            f"a study leaves {size(kept)}",
        ),
        (
            cores * DAY / core_seconds(),
            f"cores of {nodes} nodes",
            f"a study takes {core_seconds():,.0f} core-seconds",
        ),
        (
            rate * DAY / len(MEASURED["steps"]),
            "steps that one Ray head starts (at least)",
            f"{rate:.2f} a second",
        ),
    ]
    rows = ["| limit | studies a day | reason |", "| --- | ---: | --- |"]
    return "\n".join(
        rows
        + [f"| {name} | {float(f'{least:.3g}'):,g} | {why} |" for least, name, why in sorted(found)]
    )


def sections(options: argparse.Namespace) -> dict[str, str]:
    """Text of every table by the name of its marks."""
    rows, nodes = [], 0
    for profile in PROFILES:
        nodes, found = nodes_needed(options, profile)
        rows += [queueing_row(options, profile, number, one) for number, one in found.items()]
    assumed = [
        (text, f"{getattr(options, name):g}", f"`--{name.replace('_', '-')}`")
        for name, (_, text) in ASSUMPTIONS.items()
    ]
    return {
        "measured": measured_section(),
        "assumptions": markdown_table(("assumption", "value", "option"), assumed),
        "queueing": markdown_table(
            (
                "studies arrive",
                "nodes",
                "cores in use",
                "a step waits, min: 50 / 95 / 99 %",
                "a study takes, min: 50 / 95 / 99 %",
                f"done in {options.goal_hours:g} h",
                "cost a day",
                "a study",
            ),
            rows,
        ),
        "storage": storage_section(options),
        "limits": limits_section(options, nodes),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="remake the tables of docs/capacity.md"
    )
    for name, (default, text) in ASSUMPTIONS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"{text} ({default:g})".replace("%", "%%"),
        )
    options = parser.parse_args(words)
    try:
        for name, text in sections(options).items():
            print(f"{name}\n\n{text}\n")
            if options.write:
                write_section(name, text, PAGE)
    except AssistantBuilderError as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
