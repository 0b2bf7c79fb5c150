"""Pairs of scored studies, and how to change what they scored."""

import math
import shutil
from collections.abc import Callable
from typing import Any

from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study
from tests.synthetic_study import evaluated, new_study, trained, with_data

Samples = list[dict[str, Any]]
CELLS = ("B16", "L16", "Q4")


def make(name: str, **changes: Any) -> Study:
    """A scored study of few cells, so that comparing is quick; its few items can only be decided by the loss."""
    settings = {
        "eval__bootstrap_resamples": 400,
        "eval__estimand": "wordings",
        "eval__second_margin": 1.0,
        "eval__decline_margin": 1.0,
        **changes,
    }
    study = evaluated(trained(with_data(new_study(name, **settings))))
    for folder in (study.folder / "evals").iterdir():
        if folder.is_dir() and folder.name not in CELLS:
            shutil.rmtree(folder)
    return study


def edit(
    study: Study, change: Callable[[Samples], Samples], cells: tuple[str, ...] = CELLS
) -> None:
    """Replace samples of cells, and the figures that follow from them."""
    for cell in cells:
        folder = study.cell_folder(cell)
        samples = change(read_jsonl(folder / "samples.jsonl"))
        write_jsonl(folder / "samples.jsonl", samples)
        loss = math.fsum(s["nll"] for s in samples) / sum(s["tokens"] for s in samples)
        write_json(
            folder / "scores.json", {**read_json(folder / "scores.json"), "nll_per_token": loss}
        )


def each(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Samples], Samples]:
    return lambda samples: [sample | change(sample) for sample in samples]


def many(study: Study, copies: int = 10) -> None:
    """Copies of the items under other questions, so that there is something to see."""
    edit(
        study,
        lambda samples: [
            sample
            | {
                "item": f"{copy}-{sample['item']}",
                "prompt": [
                    *sample["prompt"][:-1],
                    {"role": "user", "content": f"{sample['question']} ({copy})"},
                ],
            }
            for copy in range(copies)
            for sample in samples
        ],
    )


def row(comparison: dict[str, Any], cell: str, metric: str) -> dict[str, Any]:
    return next(
        row for row in comparison["contrasts"] if (row["cell"], row["metric"]) == (cell, metric)
    )


def verdict(comparison: dict[str, Any], cell: str) -> dict[str, Any]:
    return next(verdict for verdict in comparison["verdicts"] if verdict["cell"] == cell)


def note(comparison: dict[str, Any], words: str) -> str:
    found = [text for text in comparison["warnings"] if words in text]
    assert len(found) == 1, comparison["warnings"]
    return found[0]
