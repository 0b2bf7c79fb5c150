"""``python -m benchmarks.simulate_statistics``: coverage of intervals and error rates of verdicts, by simulation.

Prints how often intervals contain the true difference, how often a harm as large as the margin is called "no worse" and
how often equal arms are called different; with ``--write`` it replaces the tables of ``docs/method.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cache
from typing import Any

import numpy as np

from assistant_builder.errors import AssistantBuilderError
from benchmarks.doc_tables import METHOD_PAGE, markdown_table, read_section, write_section
from benchmarks.simulated_scores import (
    CASES,
    CLUSTER_SIZE,
    EQUAL_ARMS,
    FAMILIES,
    SIZES,
    SimulatedScores,
    generator,
    harmful,
)
from evals.compare import Comparison, holm, paired_comparison
from evals.metrics import METRICS
from evals.stats.intervals import RESAMPLES

ALPHA = 0.05
TABLE_RESAMPLES = 2_000
"""A fifth of those of a report, for time; one of the tables compares both."""
MIRRORED = ", mirrored"
"""Suffix of a case whose differences have the other sign, so that their long tail is on the harmless side."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    case: str  # name of the case
    n: int  # items
    clusters: int | None  # clusters, None without


@dataclass(frozen=True)
class Coverage(Row):
    """Coverage of the true difference by 95 % intervals."""

    covered: float  # share of the intervals that contain it
    above: float  # share that are completely above it
    below: float  # share that are completely below it
    width: float  # mean width of the intervals, in the metric's units
    warned: float  # share of the comparisons with the warning "too few items"


@dataclass(frozen=True)
class HarmAtMargin(Row):
    """Shares of comparisons whose true harm equals the margin."""

    effective: float  # mean effective number of units, the smaller of two labels
    no_worse: float  # share with the verdict "no worse"
    warned: (
        float  # share of these with the warning "too few items" or that of correlated differences
    )
    unwarned: float  # share of all with the verdict "no worse" and neither warning


@dataclass(frozen=True)
class Resampled(Row):
    """Shares of a row of both tables above, with the resamples of the tables and with those of a report."""

    covered: float
    covered_in_reports: float
    no_worse: float
    no_worse_in_reports: float


@dataclass(frozen=True)
class EqualArms(Row):
    """Shares of A/A comparisons without a margin: both verdicts, and p-values up to 0.05."""

    worse: float
    no_worse: float
    significant: float


@dataclass(frozen=True)
class Family(Row):
    """A/A comparisons on several metrics: shares with some p-value up to 0.05, before and after Holm's adjustment."""

    metrics: int
    any_significant: float
    any_adjusted: float


def compare(
    draw: SimulatedScores, metric: str, *, seed: int, resamples: int, margin: float | None = None
) -> Comparison:
    """Compare both arms as ``evals.report.contrasts`` does."""
    info = METRICS[metric]
    clusters = {
        name: labels.tolist()
        for name, labels in (("cluster", draw.clusters), ("second label", draw.crossed))
        if labels is not None
    }
    related = {} if draw.related is None else {"second label": draw.related.tolist()}
    return paired_comparison(
        draw.baseline,
        draw.candidate,
        clusters=clusters,
        related=related,
        weights=draw.weights,
        margin=margin,
        higher_is_better=info.higher_is_better,
        seed=seed,
        bounds=info.bounds,
        resamples=resamples,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One comparison whose true harm equals its margin."""

    above: bool  # whether the interval is completely above the true difference
    below: bool  # whether it is completely below
    width: float
    no_worse: bool
    few: bool  # whether it has the warning "too few items"
    warned: bool  # whether it has that one or the warning of correlated differences
    effective: float


@cache
def outcomes(
    case: str, n: int, mirrored: bool, repetitions: int, resamples: int, seed: int
) -> tuple[int | None, tuple[Outcome, ...]]:
    """Number of clusters, and comparisons of a case of ``CASES`` whose harm equals the margin; kept for both tables.

    Args:
        case: Name of the case.
        n: Items, at least 10.
        mirrored: Whether to change the sign of all differences.
        repetitions: Number of simulated held-out sets.
        resamples: Bootstrap samples of each.
        seed: Seed of all random numbers.
    """
    rng, kind = generator(seed, case, n), CASES[case]
    higher = METRICS[kind.metric].higher_is_better
    found, clusters = [], None
    for _ in range(repetitions):
        draw = harmful(kind.draw(rng, n), lower_is_better=not higher, mirrored=mirrored)
        result = compare(draw, kind.metric, seed=seed, resamples=resamples, margin=abs(draw.truth))
        few = any(text.startswith("too few items") for text in result.warnings)
        alike = any(text.startswith("the differences within each") for text in result.warnings)
        found.append(
            Outcome(
                result.ci_low > draw.truth,
                result.ci_high < draw.truth,
                result.ci_high - result.ci_low,
                result.verdict == "no worse",
                few,
                few or alike,
                effective_units(draw),
            )
        )
        clusters = result.n_clusters
    return clusters, tuple(found)


def effective_units(draw: SimulatedScores) -> float:
    """Effective number of independent units (Kish), the smaller of two labels."""
    weights = np.ones(len(draw.baseline)) if draw.weights is None else draw.weights
    given = [labels for labels in (draw.clusters, draw.crossed) if labels is not None] or [
        np.arange(len(weights))
    ]
    return min(
        float(weights.sum() ** 2 / np.square(np.bincount(labels, weights)).sum())
        for labels in given
    )


def coverage(
    case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0
) -> Coverage:
    """Simulate one case of ``CASES`` with ``n`` items (at least 10), ``repetitions`` times."""
    clusters, found = outcomes(case, n, False, repetitions, resamples, seed)
    above, below, width, few = (
        float(share)
        for share in np.mean(
            [(outcome.above, outcome.below, outcome.width, outcome.few) for outcome in found],
            axis=0,
        )
    )
    return Coverage(case, n, clusters, 1 - above - below, above, below, width, few)


def harm_at_margin(
    case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0
) -> HarmAtMargin:
    """Simulate a case, or with the suffix ``MIRRORED`` its mirror image, at a harm that equals the margin.

    Arguments as in :func:`coverage`.
    """
    name = case.removesuffix(MIRRORED)
    clusters, found = outcomes(name, n, name != case, repetitions, resamples, seed)
    false = [outcome for outcome in found if outcome.no_worse]
    warned = sum(outcome.warned for outcome in false)
    return HarmAtMargin(
        case,
        n,
        clusters,
        float(np.mean([outcome.effective for outcome in found])),
        len(false) / len(found),
        warned / max(1, len(false)),
        (len(false) - warned) / len(found),
    )


def resampled(
    case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0
) -> Resampled:
    """Simulate a case with as many bootstrap samples as given and as in a report; arguments as in :func:`coverage`."""
    tables = {}
    for count in (resamples, RESAMPLES):
        settings = {"repetitions": repetitions, "resamples": count, "seed": seed}
        tables[count] = coverage(case, n, **settings), harm_at_margin(case, n, **settings)
    few, many = tables[resamples], tables[RESAMPLES]
    return Resampled(
        case, n, few[0].clusters, few[0].covered, many[0].covered, few[1].no_worse, many[1].no_worse
    )


def equal_arms(
    case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0
) -> EqualArms:
    """Simulate A/A comparisons of one kind; arguments as in :func:`coverage`."""
    rng = generator(seed, case, n)
    results = [
        compare(
            EQUAL_ARMS[case].draw(rng, n), EQUAL_ARMS[case].metric, seed=seed, resamples=resamples
        )
        for _ in range(repetitions)
    ]
    return EqualArms(
        case,
        n,
        results[-1].n_clusters,
        worse=float(np.mean([result.verdict == "worse" for result in results])),
        no_worse=float(np.mean([result.verdict == "no worse" for result in results])),
        significant=float(np.mean([result.p_value <= ALPHA for result in results])),
    )


def family(
    case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0
) -> Family:
    """Simulate A/A comparisons on all metrics; arguments as in :func:`coverage`."""
    rng = generator(seed, case, n)
    rows = []
    clusters, metrics = None, 0
    for _ in range(repetitions):
        results = [
            compare(draw, metric, seed=seed, resamples=resamples)
            for metric, draw in FAMILIES[case](rng, n).items()
        ]
        p_values = [result.p_value for result in results]
        rows.append((min(p_values) <= ALPHA, holm(p_values).min() <= ALPHA))
        clusters, metrics = results[0].n_clusters, len(results)
    any_significant, any_adjusted = (float(share) for share in np.mean(rows, axis=0))
    return Family(case, n, clusters, metrics, any_significant, any_adjusted)


@dataclass(frozen=True)
class TableSpec:
    """One of the tables."""

    name: str  # name of its marks in ``docs/method.md``
    cases: Mapping[str, tuple[int, ...]]  # its cases with the numbers of items, a row at each
    simulate: Callable[..., Row]  # simulates one row
    subject: str  # title of the first column
    columns: dict[
        str, str
    ]  # titles of the columns after items and clusters, with the format of their figures

    def table(self, rows: Sequence[Row]) -> str:
        """The rows as Markdown."""
        return markdown_table(
            (self.subject, "items", "clusters", *self.columns),
            [
                (
                    row.case,
                    str(row.n),
                    str(row.clusters or "–"),
                    *map(format, astuple(row)[3:], self.columns.values()),
                )
                for row in rows
            ],
        )


HARMFUL = {
    name + suffix: case.sizes
    for name, case in CASES.items()
    for suffix in (("", MIRRORED) if case.skewed else ("",))
}
"""Cases of the table of harm at the margin, with their sizes: skewed ones with the tail on either side."""
RESAMPLED = {"normal": (100,), "lognormal": (100,), "clusters of 5, lognormal clusters": (200,)}
"""Cases of the table of the number of bootstrap samples, with their sizes."""
PARTS = (
    TableSpec(
        "coverage",
        {name: case.sizes for name, case in CASES.items()},
        coverage,
        "differences",
        {
            "covered": ".1%",
            "too high": ".1%",
            "too low": ".1%",
            "mean width": ".3f",
            "“too few items”": ".0%",
        },
    ),
    TableSpec(
        "harm-at-margin",
        HARMFUL,
        harm_at_margin,
        "differences",
        {
            "effective units": ".0f",
            "“no worse”": ".1%",
            "of these with a warning": ".0%",
            "“no worse” without a warning": ".1%",
        },
    ),
    TableSpec(
        "resamples",
        RESAMPLED,
        resampled,
        "differences",
        {
            "covered": ".1%",
            f"covered, {RESAMPLES:,} resamples": ".1%",
            "“no worse”": ".1%",
            f"“no worse”, {RESAMPLES:,} resamples": ".1%",
        },
    ),
    TableSpec(
        "equal-arms",
        dict.fromkeys(EQUAL_ARMS, SIZES),
        equal_arms,
        "equal arms",
        {"“worse”": ".1%", "“no worse”": ".1%", "p ≤ 0.05": ".1%"},
    ),
    TableSpec(
        "families",
        dict.fromkeys(FAMILIES, SIZES),
        family,
        "equal arms",
        {"metrics": "d", "some p ≤ 0.05": ".1%", "some p ≤ 0.05 after Holm": ".1%"},
    ),
)


def note(repetitions: int, resamples: int, seed: int) -> str:
    """The command that made a table."""
    options = f"--repetitions {repetitions} --resamples {resamples} --seed {seed} --write"
    return f"`python -m benchmarks.simulate_statistics {options}`: {repetitions:,} simulated held-out sets a line."


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_statistics", description=__doc__
    )
    parser.add_argument(
        "--repetitions", type=int, default=4000, help="simulated held-out sets a line (4000)"
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=TABLE_RESAMPLES,
        help=f"bootstrap samples and sign patterns of each ({TABLE_RESAMPLES}; a report: {RESAMPLES})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (0)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="items (those of the tables)"
    )
    parser.add_argument(
        "--case",
        choices=[case for part in PARTS for case in part.cases],
        action="append",
        metavar="CASE",
        help="only this row, as named in the table; may be repeated",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    output.add_argument("--write", action="store_true", help="replace the tables of docs/method.md")
    options = parser.parse_args(words)
    if min(options.repetitions, options.resamples) < 1 or options.seed < 0:
        parser.error("repetitions and resamples must be 1 or more, the seed 0 or more")
    if options.sizes and min(options.sizes) < 2 * CLUSTER_SIZE:
        parser.error(f"sizes must be {2 * CLUSTER_SIZE} or more")
    if options.write and (options.case or options.sizes):
        parser.error("--write replaces complete tables: omit --case and --sizes")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables, one JSON document, or write the tables into ``docs/method.md``."""
    options = parse(words)
    settings = {name: getattr(options, name) for name in ("repetitions", "resamples", "seed")}
    document: dict[str, list[dict[str, Any]]] = {}
    try:
        if options.write:
            for part in PARTS:
                read_section(
                    part.name, METHOD_PAGE
                )  # raises before the simulation if the marks are missing
        for part in PARTS:
            rows = [
                _line(part, case, n, settings)
                for case, sizes in part.cases.items()
                if not options.case or case in options.case
                for n in options.sizes or sizes
            ]
            document[part.name] = [asdict(row) for row in rows]
            if options.write:
                write_section(part.name, f"{note(**settings)}\n\n{part.table(rows)}", METHOD_PAGE)
            elif rows and not options.json:
                print(part.table(rows), end="\n\n")
    except AssistantBuilderError as error:
        sys.stderr.write(f"simulate_statistics: {error}\n")
        return 1
    if options.json:
        print(json.dumps(document, indent=2))
    return 0


def _line(part: TableSpec, case: str, n: int, settings: dict[str, int]) -> Row:
    print(f"{part.name}: {case}, n = {n}", file=sys.stderr)
    return part.simulate(case, n, **settings)


if __name__ == "__main__":
    sys.exit(main())
