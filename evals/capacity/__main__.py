"""``python -m evals.capacity``: plan many studies a day from measured ones; ``measure STUDY…`` takes the figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from assistant_builder.errors import AssistantBuilderError
from evals.capacity.assumptions import Assumptions, add_options, command_line, read_options
from evals.capacity.figures import Estimate, estimate
from evals.capacity.measured import MEASURED, Measured, read_measured, write_measured
from evals.capacity.measuring import measure
from evals.capacity.sizing import cluster_of, nodes_needed
from evals.capacity.tables import (
    NOT_MEASURED,
    assumptions_table,
    large_table,
    limits_table,
    measured_table,
    queueing_table,
    requests_table,
    storage_table,
)
from evals.capacity.workload import stages_of
from evals.readme import read_part, write_part

README = Path(__file__).parents[2] / "docs" / "capacity.md"
SIMULATED = ("queueing", "limits")
"""Parts that take a simulation: minutes, the others seconds."""


def quick_parts(measured: Measured | None, assumptions: Assumptions) -> dict[str, str]:
    """Name and text of the parts that take no simulation."""
    made: dict[str, Callable[[Measured, Assumptions], str]] = {
        "measured": lambda found, _: measured_table(found), "storage": storage_table, "requests": requests_table,
    }
    return {
        "assumptions": f"`{command_line(assumptions)}`\n\n{assumptions_table(assumptions)}",
        **{name: make(measured, assumptions) if measured else NOT_MEASURED for name, make in made.items()},
        "large": large_table(),
    }


def simulated_parts(measured: Measured | None, assumptions: Assumptions) -> dict[str, str]:
    """Name and text of the parts that take a simulation."""
    if measured is None:
        return dict.fromkeys(SIMULATED, NOT_MEASURED)
    rows, nodes = [], 1
    for profile in ("even", "office"):
        changed = assumptions.model_copy(update={"profile": profile})
        sys.stderr.write(f"capacity: how many nodes if studies come {profile}\n")
        needed = nodes_needed(measured, changed)
        rows += [(profile, found) for found in beside(measured, changed, needed)]
        if profile == assumptions.profile:
            nodes = needed.nodes
    return {"queueing": queueing_table(rows, assumptions), "limits": limits_table(measured, assumptions, nodes)}


def beside(measured: Measured, assumptions: Assumptions, needed: Estimate) -> list[Estimate]:
    """A node fewer than are needed, as many as are needed, twice as many."""
    stages = stages_of(measured, assumptions.seeds)
    others = {nodes: estimate(stages, cluster_of(measured, assumptions, nodes), assumptions)
              for nodes in (needed.nodes - 1, 2 * needed.nodes) if nodes}
    return [found for _, found in sorted({**others, needed.nodes: needed}.items())]


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.capacity", description=__doc__)
    parser.add_argument("--write", action="store_true", help="remake the tables of docs/capacity.md")
    add_options(parser)
    command = parser.add_subparsers(dest="command", metavar="measure STUDY…")
    measuring = command.add_parser("measure", help="take the figures of finished studies")
    measuring.add_argument("studies", nargs="+", metavar="STUDY")
    measuring.add_argument("--scheduling", type=Path, metavar="FILE",
                           help="what 'python -m evals.bench.scheduling' printed")
    measuring.add_argument("--to", type=Path, default=MEASURED, metavar="FILE", help="where to write them")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Print the plan, write it into the README, or take the figures that it starts from."""
    options = parse(words)
    try:
        if options.command == "measure":
            write_measured(measure(options.studies, options.scheduling), options.to)
            print(options.to)
        else:
            _plan(read_options(options), write=options.write)
    except AssistantBuilderError as error:
        sys.stderr.write(f"capacity: {error}\n")
        return 1
    return 0


def _plan(assumptions: Assumptions, *, write: bool) -> None:
    measured = read_measured()
    quick = quick_parts(measured, assumptions)
    if write:
        for name in (*quick, *SIMULATED):
            read_part(name, README)  # tell before the work that there is no place for the results
    for name, text in {**quick, **simulated_parts(measured, assumptions)}.items():
        if write:
            write_part(name, text, README)
        else:
            print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    sys.exit(main())
