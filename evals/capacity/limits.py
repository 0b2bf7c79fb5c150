"""What gives way first as the load grows: for each limit, the studies a day at which it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from assistant_builder.jobs import cluster
from assistant_builder.ui.home.study_list import KEPT_ENTRIES
from evals.capacity.assumptions import DAY_SECONDS, Assumptions
from evals.capacity.measured import Measured
from evals.capacity.store import kept_bytes, read_bytes, study_requests, written_bytes
from evals.capacity.workload import alone_seconds, busy_seconds, stages_of

LISTING_SECONDS = 1.0
"""How often a window that shows the home screen asks (``ui/pulse.js``)."""


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        name: What gives way.
        studies_a_day: From how many studies a day on.
        why: How that follows.
        source: Where its figures come from.
        at_least: Whether the limit is known to lie there or higher.
    """

    name: str
    studies_a_day: float
    why: str
    source: str
    at_least: bool = False


def limits(measured: Measured, assumptions: Assumptions, nodes: int) -> list[Limit]:
    """Every limit, the first to be reached first.

    Args:
        measured: The figures.
        assumptions: The load, the nodes and the store.
        nodes: How many nodes there are.
    """
    found = [
        _slots(measured, assumptions, nodes), *_listing(measured, assumptions), _watching(measured, assumptions),
        *_requests(measured, assumptions), *_bytes(measured, assumptions), *_scheduling(measured, assumptions),
    ]
    return sorted(found, key=lambda limit: limit.studies_a_day)


def _slots(measured: Measured, assumptions: Assumptions, nodes: int) -> Limit:
    busy = busy_seconds(stages_of(measured, assumptions.seeds), measured.overhead_seconds)
    cpus = nodes * assumptions.node_cpus
    return Limit(
        f"processors of {nodes} nodes", cpus * DAY_SECONDS / busy,
        f"a study holds processors for {busy:,.0f} seconds, and there are {cpus}; waiting grows long before",
        "measured seconds of each step",
    )


def _listing(measured: Measured, assumptions: Assumptions) -> Iterator[Limit]:
    """The home screen looks at every study that was ever made and not deleted."""
    kept = f"studies are kept for {assumptions.kept_days:g} days"
    quick = LISTING_SECONDS / measured.listing_seconds
    first = KEPT_ENTRIES * measured.first_listing_seconds
    yield Limit(
        "the home screen's list: each look takes longer than the time between two", quick / assumptions.kept_days,
        f"a look takes {1e3 * measured.listing_seconds:.2f} ms a study, a window asks every {LISTING_SECONDS:g} s, "
        f"{kept}",
        "measured on an open home screen's list; `ui/pulse.js`",
    )
    yield Limit(
        f"the home screen's list: more than the {KEPT_ENTRIES:,} studies that it remembers",
        KEPT_ENTRIES / assumptions.kept_days,
        f"above that every look reads all studies anew, which takes {first:.1f} s for these; {kept}",
        "`ui.entries.KEPT_ENTRIES`; measured",
    )


def _watching(measured: Measured, assumptions: Assumptions) -> Limit:
    alone = alone_seconds(stages_of(measured, assumptions.seeds))
    share = measured.watching_seconds / cluster.POLL_SECONDS
    return Limit(
        "processors of the one node on which all runs are started", assumptions.node_cpus / share / alone * DAY_SECONDS,
        f"a run that watches its study takes {share:.1%} of a processor for {alone:,.0f} seconds at least; "
        f"there are {assumptions.node_cpus}", "measured; `jobs.cluster.POLL_SECONDS`",
    )


def _requests(measured: Measured, assumptions: Assumptions) -> Iterator[Limit]:
    study = study_requests(measured, assumptions)
    for name, wanted, there in (("reads", study.reads, assumptions.store_reads),
                                ("writes", study.writes, assumptions.store_writes)):
        yield Limit(
            f"{name} a second of the shared store", there * DAY_SECONDS / wanted,
            f"a study makes {wanted:,.0f}; the store does {there:,.0f} a second",
            f"table of requests; `--store-{name}`",
        )


def _bytes(measured: Measured, assumptions: Assumptions) -> Iterator[Limit]:
    kept = kept_bytes(measured, assumptions.seeds, checkpoints=True)
    yield Limit(
        f"disk of {assumptions.store_tb:g} TB", assumptions.store_tb * 1e12 / kept / assumptions.kept_days,
        f"a study leaves {kept / 1e6:,.1f} MB and is kept for {assumptions.kept_days:g} days",
        "measured files; `--store-tb`, `--kept-days`",
    )
    for name, moved in (("read from", read_bytes(measured, assumptions.seeds)),
                        ("written to", written_bytes(measured, assumptions.seeds))):
        yield Limit(
            f"bytes {name} the shared store", assumptions.store_mb_per_second * 1e6 * DAY_SECONDS / moved,
            f"{moved / 1e6:,.0f} MB a study; the store moves {assumptions.store_mb_per_second:g} MB a second",
            "measured files, and the base model for each training and the evaluation; `--store-mb-per-second`",
        )


def _scheduling(measured: Measured, assumptions: Assumptions) -> Iterator[Limit]:
    """The head has handed out steps as fast as was measured; nobody has seen how much faster it could."""
    if measured.scheduling is None:
        return
    steps = sum(map(len, stages_of(measured, assumptions.seeds)))
    rate = measured.scheduling.slots / (measured.scheduling.seconds + measured.scheduling.overhead_seconds_a_step)
    yield Limit(
        "steps a second that one head hands out", rate * DAY_SECONDS / steps,
        f"{rate:.2f} a second were handed out while {measured.scheduling.slots} slots were kept busy; "
        f"a study has {steps} steps", "`python -m evals.bench.scheduling`", at_least=True,
    )
