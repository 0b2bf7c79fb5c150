"""What another training seed changes, beside the difference between the arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from assistant_builder.config import StudyConfig
from assistant_builder.study import Study
from evals.report.contrasts import compare
from evals.report.reading import BASELINE, CANDIDATE, Cell, figure, read_again, tuned_cells
from evals.report.training import arm_records, twins
from evals.report.wording import shown, signed


def seeds(study: Study, cells: Mapping[str, Cell], items: list[str]) -> dict[str, Any]:
    """The headline's difference once for each training seed that was run.

    Args:
        study: The study.
        cells: The scored cells of the first seed.
        items: The items of the primary metric.

    Returns:
        ``count``, ``metric``, ``runs`` (figures of both arms, difference with its item-level interval, verdict, and
        whether the two were ``twins``),
        ``spread`` over the runs (``None`` with one) and a ``sentence``.

    Raises:
        EvaluationError: A run was scored on other items.
    """
    config = study.config
    metric = config.eval.primary_metric
    if not config.compares:
        return _alone(study, cells, items)
    runs = [_run(1, cells, items, config)]
    for number in range(2, config.seeds + 1):
        again = read_again(study, cells[BASELINE], seed=number)
        if again and all(cell.value(item, metric) is not None for cell in again.values() for item in items):
            runs.append(_run(number, again, items, config))
    spread = _spread(runs) if len(runs) > 1 else None
    sentence = _one_seed() if spread is None else _several(runs, spread, metric)
    for run in runs:
        run["twins"] = _twins(study, run["seed"])
    return {"count": len(runs), "metric": metric, "runs": runs, "spread": spread, "sentence": sentence}


def _alone(study: Study, cells: Mapping[str, Cell], items: list[str]) -> dict[str, Any]:
    """The figure of the one arm of a study once for each training seed; nothing to compare it with."""
    config = study.config
    metric = config.eval.primary_metric
    (name,) = tuned_cells(config.arms)
    found = {1: cells[name]}
    for number in range(2, config.seeds + 1):
        again = read_again(study, cells[name], seed=number)
        if again and all(again[name].value(item, metric) is not None for item in items):
            found[number] = again[name]
    runs = [{"seed": number, "training_seed": config.train.seed + number - 1, name: figure(cell, metric, items)}
            for number, cell in found.items()]
    if len(runs) == 1:
        return {"count": 1, "metric": metric, "runs": runs, "spread": None, "sentence": _ONE_ARM_ONCE}
    spread, how = _spread_of([run[name] for run in runs]), shown(metric)
    places = how.decimals + 1
    return {"count": len(runs), "metric": metric, "runs": runs, "spread": {name: spread}, "sentence":
            f"Over {len(runs)} training seeds the {how.phrase} is {spread['mean'] * how.factor:.{places}f}"
            f"{how.suffix or f' {how.unit}'} on average (standard deviation {spread['sd'] * how.factor:.{places}f}, "
            f"from {spread['min'] * how.factor:.{places}f} to {spread['max'] * how.factor:.{places}f})."}


def _run(number: int, cells: Mapping[str, Cell], items: list[str], config: StudyConfig) -> dict[str, Any]:
    metric = config.eval.primary_metric
    result = compare(cells[BASELINE], cells[CANDIDATE], metric, items, config.eval)
    return {
        "seed": number, "training_seed": config.train.seed + number - 1,
        **{name: figure(cells[name], metric, items) for name in (BASELINE, CANDIDATE)},
        "delta": result.delta, "ci": [result.ci_low, result.ci_high], "verdict": result.verdict,
    }


def _twins(study: Study, number: int) -> bool | None:
    """Whether the two arms of a seed did the same work but for the base's storage; ``None`` if not on record."""
    found = twins(*(arm_records(study, file, seed=number) for file in ("config.json", "summary.json")))
    return None if found is None else found["matched"]


def _spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the runs; the difference with a t interval of k − 1 degrees of freedom."""
    found: dict[str, Any] = {}
    for name in (BASELINE, CANDIDATE):
        found[name] = _spread_of([run[name] for run in runs])
    deltas, count = [run["delta"] for run in runs], len(runs)
    mean, sd = float(np.mean(deltas)), float(np.std(deltas, ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return {**found, "delta": {"mean": mean, "sd": sd, "ci": [mean - half, mean + half]},
            "within_arm_sd": math.sqrt((found[BASELINE]["sd"] ** 2 + found[CANDIDATE]["sd"] ** 2) / 2)}


def _spread_of(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "min": min(values),
            "max": max(values)}


_ONE_ARM_ONCE = ("The assistant was trained once. The intervals are over held-out items and leave out how much the "
                 "training itself varies. To see it, train with more seeds: seeds: 3 in study.yaml, or --set seeds=3.")


def _one_seed() -> str:
    return ("Each arm was trained once. The intervals are over held-out items and leave out how much the training "
            "itself varies, so another seed could move the difference further than they say. To see it, train with "
            "more seeds: seeds: 3 in study.yaml, or --set seeds=3.")


def _several(runs: Sequence[Mapping[str, Any]], spread: Mapping[str, Any], metric: str) -> str:
    how, delta, inside = shown(metric), spread["delta"], spread["within_arm_sd"]
    places = how.decimals + 1
    mean, low, high = (signed(value * how.factor, places) for value in (delta["mean"], *delta["ci"]))
    larger = abs(delta["mean"]) > inside
    text = (
        f"Over {len(runs)} training seeds, the same in both arms, QLoRA minus LoRA is {mean} {how.unit} on average "
        f"(95% interval over seeds {low} to {high}). This difference between the arms is "
        f"{'larger' if larger else 'smaller'} than what another seed changes inside an arm (standard deviation "
        f"{inside * how.factor:.{places}f})"
    )
    if larger and delta["ci"][0] <= 0 <= delta["ci"][1]:
        text += ", yet so many seeds are too few to tell it from none"
    verdicts = [run["verdict"] for run in runs]
    if len(set(verdicts)) == 1:
        return f"{text}. Every seed gives the same verdict: {verdicts[0]}."
    told = ", ".join(f"seed {run['seed']}: {run['verdict']}" for run in runs)
    return f"{text}. The seeds disagree in the verdict ({told})."
