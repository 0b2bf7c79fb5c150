"""``python -m benchmarks.early_stop [STUDY.yaml …]``: answers of assistants whose training ends early, and to the end.

The 16-bit arm of each study is trained and scored twice, with ``train.stop_loss`` by default and 0, with the same
seeds (``--seeds``, 3). Printed are the steps, right answers, false and right declines, and the difference of the right
answers over the mean of the seeds with its 95 % interval, whose units are the facts. The studies stay in the folder of
studies, so that a measurement that was interrupted resumes. Default: the demo, and two datasets that are not shipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import assistant_builder as ab
from assistant_builder.arms import LORA
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.config.study_config import load_config
from assistant_builder.study import Study, studies_folder
from assistant_builder.study.steps import arm_runs
from benchmarks.doc_tables import markdown_table
from benchmarks.paths import FERRIES, ROOT
from evals.compare import paired_comparison

DATASETS = ROOT / "benchmarks" / "datasets"
STUDIES = [
    FERRIES.with_name("study.yaml"),
    *(
        DATASETS / name / "study.yaml"
        for name in ("quernby-evening-college", "wexholme-community-pool")
    ),
]
_SETTINGS = {
    "arms": [LORA.name],
    "eval.cells": [LORA.cell],
    "eval.baselines": False,
    "eval.retention": False,
    "eval.fidelity": False,
    "eval.noise_floor": False,
    "formats.types": [],
}
_COLUMNS = ["study", "training", "steps", "exactly right", "falsely declined", "rightly declined"]


def scored(source: Path, seeds: int, *, to_the_end: bool) -> Study:
    """The study, trained and scored; one that exists is resumed."""
    config = load_config(source)
    name = f"{config.name}-{'end' if to_the_end else 'stop'}"
    changes = {**_SETTINGS, "name": name, "seeds": seeds}
    config = config.with_changes(changes | ({"train.stop_loss": 0} if to_the_end else {}))
    if not (studies_folder() / name).exists():
        assert config.data.source is not None
        Study.create(config, source.parent / config.data.source)
    ab.open(name).run()
    return Study.open(name)


def rows_and_difference(source: Path, seeds: int) -> tuple[list[list[str]], str]:
    """The two rows of a study in the table, and the difference of its right answers."""
    rows, right, clusters = [], [], []
    for to_the_end in (True, False):
        study = scored(source, seeds, to_the_end=to_the_end)
        runs = [
            read_json(study.arm_folder(run) / "summary.json")
            for run in arm_runs(seeds, [LORA.name])
        ]
        cells = [_samples(study, seed) for seed in range(1, seeds + 1)]
        asked = [[item for item in cell if item["answerable"]] for cell in cells]
        other = [[item for item in cell if not item["answerable"]] for cell in cells]
        scores = [[float(item["metrics"]["exact_match"]) for item in cell] for cell in asked]
        right.append(list(map(mean, zip(*scores, strict=True))))
        clusters = [item["cluster"] for item in asked[0]]
        steps = [run["steps"] for run in runs]
        rows.append(
            [
                source.parent.name,
                "to the end" if to_the_end else "stopped",
                f"{min(steps)} to {max(steps)}" if len({*steps}) > 1 else str(steps[0]),
                *map(_by_seed, (scores, _declined(asked), _declined(other))),
            ]
        )
    found = paired_comparison(*right, clusters=clusters)
    return rows, (
        f"{source.parent.name}: stopped − to the end, exactly right, {len(right[0])} questions: "
        f"{100 * found.delta:+.1f} points, 95 % interval {100 * found.ci_low:+.1f} to {100 * found.ci_high:+.1f}"
    )


def _samples(study: Study, seed: int) -> list[dict[str, Any]]:
    return read_jsonl(study.cell_folder(LORA.cell, seed=seed) / "samples.jsonl")


def _declined(cells: list[list[dict[str, Any]]]) -> list[list[float]]:
    return [[float(bool(item["declined"])) for item in cell] for cell in cells]


def _by_seed(scores: list[list[float]]) -> str:
    if not scores[0]:
        return "–"
    return ", ".join(f"{100 * mean(cell):.1f}" for cell in scores) + f" % of {len(scores[0])}"


def main(arguments: list[str] | None = None) -> int:
    """Train, score, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_stop", description=__doc__)
    parser.add_argument("studies", nargs="*", type=Path, default=STUDIES, metavar="STUDY.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    found = [rows_and_difference(source.absolute(), options.seeds) for source in options.studies]
    print(markdown_table(_COLUMNS, [row for rows, _ in found for row in rows]))
    print(*(difference for _, difference in found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
