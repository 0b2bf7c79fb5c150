"""``python -m evals.simulate``: how often intervals hold the truth, and how often equal arms are called different."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assistant_builder.errors import AssistantBuilderError
from evals.readme import README, read_part, write_part
from evals.simulate.coverage import CASES, coverage
from evals.simulate.drawing import CLUSTER_SIZE, SIZES
from evals.simulate.equal_arms import EQUAL_ARMS, FAMILIES, equal_arms, family
from evals.simulate.tables import coverage_table, equal_arms_table, family_table
from evals.stats.intervals import RESAMPLES


@dataclass(frozen=True)
class Part:
    """One of the tables.

    Attributes:
        name: Its marks in ``evals/README.md``.
        cases: Its lines, each at every size.
        simulate: Makes one line.
        table: Makes Markdown of them.
    """

    name: str
    cases: Sequence[str]
    simulate: Callable[..., Any]
    table: Callable[[list[Any]], str]


PARTS = (
    Part("coverage", tuple(CASES), coverage, coverage_table),
    Part("equal-arms", tuple(EQUAL_ARMS), equal_arms, equal_arms_table),
    Part("families", tuple(FAMILIES), family, family_table),
)


def note(repetitions: int, resamples: int, seed: int) -> str:
    """How a table was made."""
    return (f"`python -m evals.simulate --repetitions {repetitions} --resamples {resamples} --seed {seed} --write`: "
            f"{repetitions:,} simulated held-out sets a line.")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.simulate", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000, help="simulated held-out sets a line (2000)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES,
                        help=f"bootstrap samples and sign patterns of each ({RESAMPLES}, as in a report)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (0)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="items (30 100 300)")
    parser.add_argument("--case", choices=[case for part in PARTS for case in part.cases], action="append",
                        metavar="CASE", help="only this line, as it is named in the table; may be repeated")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    output.add_argument("--write", action="store_true", help="remake the tables of evals/README.md")
    options = parser.parse_args(words)
    if min(options.repetitions, options.resamples) < 1 or options.seed < 0:
        parser.error("repetitions and resamples must be 1 or more, the seed 0 or more")
    if min(options.sizes) < 2 * CLUSTER_SIZE:
        parser.error(f"sizes must be {2 * CLUSTER_SIZE} or more")
    if options.write and (options.case or tuple(options.sizes) != SIZES):
        parser.error("--write remakes whole tables: leave out --case and --sizes")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables, one JSON document, or write the tables into ``evals/README.md``."""
    options = parse(words)
    settings = {name: getattr(options, name) for name in ("repetitions", "resamples", "seed")}
    document: dict[str, list[dict[str, Any]]] = {}
    try:
        if options.write:
            for part in PARTS:
                read_part(part.name, README)  # tell before the work that there is no place for the results
        for part in PARTS:
            rows = [
                _line(part, case, n, settings)
                for case in part.cases if not options.case or case in options.case for n in options.sizes
            ]
            document[part.name] = [asdict(row) for row in rows]
            if options.write:
                write_part(part.name, f"{note(**settings)}\n\n{part.table(rows)}", README)
            elif rows and not options.json:
                print(part.table(rows), end="\n\n")
    except AssistantBuilderError as error:
        sys.stderr.write(f"simulate: {error}\n")
        return 1
    if options.json:
        print(json.dumps(document, indent=2))
    return 0


def _line(part: Part, case: str, n: int, settings: dict[str, int]) -> Any:
    print(f"{part.name}: {case}, n = {n}", file=sys.stderr)
    return part.simulate(case, n, **settings)


if __name__ == "__main__":
    sys.exit(main())
