"""Measurements that put the difference into context: fidelity, worst items, noise floor, training seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired

import numpy as np
from scipy import stats
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.config import StudyConfig
from assistant_builder.i18n import Message, joined, m, mn
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmConfig, ArmSummary
from evals.report.contrasts import HEADLINE
from evals.report.items import change
from evals.report.load import BASELINE, CANDIDATE, Cell, read_rescored_cells, tuned_cells
from evals.report.load import figure as figure_of
from evals.report.number_format import amount, figure, nats_of, share_of, shown
from evals.report.rules import Rules, averaged
from evals.report.study_facts import arm_records, twins
from evals.stats.cluster_robust import StandardError
from evals.stats.seed_variance import seeds_needed, trained_again

_LABELS = {
    "B4-B16": m("storing the untuned base in {bits} bits"),
    "L4-L16": m("storing the base in {bits} bits, with the 16-bit-trained adapter"),
    "Q4-Q16": m("storing the base in {bits} bits, with QLoRA's adapter"),
    HEADLINE: m("QLoRA against its 16-bit twin, training included"),
}


def fidelity(study: Study) -> dict[str, Any] | None:
    """``evals/fidelity.json`` with labels and a sentence; ``None`` if it was not requested or does not exist.

    If the comparison was skipped, ``skipped`` has the reason and there are no pairs.
    """
    path = study.evals_folder / "fidelity.json"
    if not study.config.compares or not study.config.eval.fidelity or not path.exists():
        return None
    record = {
        key: value for key, value in read_json(path, _FidelityFile).items() if key != "inputs"
    }
    pairs = [{**pair, "label": _LABELS.get(pair["name"], pair["name"])} for pair in record["pairs"]]
    known, skipped = {pair["name"]: pair for pair in pairs}, record.get("skipped")
    lines = []
    if skipped:
        lines.append(m("Not compared token by token: {reason}.", reason=skipped.rstrip(".")))
    if "L4-L16" in known:
        lines.append(
            m(
                "Storing the base in {bits} bits, with the same adapter, changes the prediction of the next token by "
                "{mean} nats on average (median {median}, 99th percentile {p99}), and the likeliest token is the same "
                "at {share} of the positions.",
                **_moved(known["L4-L16"]),
            )
        )
    if HEADLINE in known:
        lines.append(
            m(
                "Between QLoRA and its 16-bit twin, training included, it is {mean} nats on average (median {median}, "
                "99th percentile {p99}), and the likeliest token is the same at {share} of the positions.",
                **_moved(known[HEADLINE]),
            )
        )
    if lines and not skipped:
        lines.append(m("Identical predictions would give 0 nats and 100%."))
    return {**record, "pairs": pairs, "skipped": skipped, "sentence": joined(lines)}


class _FidelityPair(TypedDict):
    name: str
    kl_mean: float
    kl_median: float
    kl_p99: float
    top1_agreement: float
    candidate: NotRequired[str]
    reference: NotRequired[str]
    tokens: NotRequired[int]
    kl_max: NotRequired[float]
    delta_nll: NotRequired[float | None]


class _FidelityFile(TypedDict):
    pairs: list[_FidelityPair]
    skipped: NotRequired[str | None]


def _moved(pair: Mapping[str, Any]) -> dict[str, Message]:
    found = {name: nats_of(pair[f"kl_{name}"]) for name in ("mean", "median", "p99")}
    return found | {"share": share_of(pair["top1_agreement"])}


def noise_floor(
    study: Study,
    cells: Mapping[str, Cell],
    usable: Mapping[str, list[str]],
    flips: Mapping[str, Any],
    rules: Rules,
) -> dict[str, Any] | None:
    """Each assistant compared with itself, scored with another batch size; ``None`` if that was not measured.

    Raises:
        EvaluationError: The second scoring has other items.
    """
    config = study.config.eval
    again = read_rescored_cells(study, cells[BASELINE]) if config.noise_floor else {}
    if not again:
        return None
    found: dict[str, Any] = {
        "cells": {name: _cell(cells[name], again[name]) for name in (BASELINE, CANDIDATE)},
        "delta": None,
        "ci": None,
        "verdict": None,
    }
    primary = rules.declared.primary_metric
    items = [
        item
        for item in usable[primary]
        if all(cell.value(item, primary) is not None for cell in again.values())
    ]
    if len(items) == len(usable[primary]):
        result = rules.compare(again[BASELINE], again[CANDIDATE], primary, items, level=rules.level)
        found |= {
            "delta": result.delta,
            "ci": [result.ci_low, result.ci_high],
            "verdict": result.verdict,
        }
    records = found["cells"]
    sizes = {record["other_batch_size"] for record in records.values()}
    lora, qlora = (record["lost"] + record["gained"] for record in records.values())
    sentences = [
        m(
            "The same assistants were scored again with batch size {batch} and the library's own kernels, which "
            "changes nothing but rounding.",
            batch=sizes.pop(),
        )
        if len(sizes) == 1 and None not in sizes
        else m(
            "The same assistants were scored again with the library's own kernels, which changes nothing but rounding."
        ),
        m(
            "This turned {lora:,} of {items} right or wrong for 16-bit LoRA and {qlora:,} for QLoRA; between the two "
            "assistants {between:,} differ.",
            lora=lora,
            qlora=qlora,
            items=mn("{count} item", "{count} items", flips["items"]),
            between=len(flips["lost"]) + len(flips["gained"]),
        ),
    ]
    if found["delta"] is not None:
        moved = amount(found["delta"], primary, shown(primary).decimals + 1, plus=True)
        sentences.append(
            m(
                "In that scoring the difference is {difference} and the verdict “{verdict}”.",
                difference=moved,
                verdict=Message(found["verdict"]),
            )
        )
    return {**found, "sentence": joined(sentences)}


def _cell(cell: Cell, again: Cell) -> dict[str, Any]:
    changes = [change(cell, again, item) for item in cell.by_item]
    shifts = [
        abs(after - before)
        for item in cell.by_item
        if (before := cell.value(item, "nll_per_token")) is not None
        and (after := again.value(item, "nll_per_token")) is not None
    ]
    return {
        "batch_size": cell.scores.get("batch_size"),
        "other_batch_size": again.scores.get("batch_size"),
        "lost": changes.count("lost"),
        "gained": changes.count("gained"),
        "text_differs": sum(kind in ("lost", "gained", "different") for kind in changes),
        "largest_nll_per_token_shift": max(shifts, default=None),
        "items": len(changes),
    }


def seed_cells(study: Study, cells: Mapping[str, Cell]) -> dict[int, dict[str, Cell]]:
    """The cells of the headline for each training seed with scores; the first seed's are those of ``cells``.

    Raises:
        EvaluationError: A run was scored on other items.
    """
    tuned = tuned_cells(study.config.arms)
    found = {1: {name: cells[name] for name in tuned}}
    for number in range(2, study.config.seeds + 1):
        again = read_rescored_cells(study, cells[tuned[0]], seed=number)
        if again:
            found[number] = again
    return found


def seeds(
    study: Study, runs_of: Mapping[int, Mapping[str, Cell]], items: list[str], rules: Rules
) -> dict[str, Any]:
    """The headline's difference for each training seed, and its ``spread`` over the runs (``None`` with one).

    ``trained_again`` is the interval for the mean difference if both arms were trained again with other seeds.

    Raises:
        EvaluationError: A run was scored on other items.
    """
    config = study.config
    metric, tuned = rules.declared.primary_metric, tuned_cells(config.arms)
    scored = {
        number: found
        for number, found in runs_of.items()
        if all(cell.value(item, metric) is not None for cell in found.values() for item in items)
    }
    runs = [_run(number, found, items, config, rules) for number, found in scored.items()]
    values = {name: _spread_of([run[name] for run in runs]) for name in tuned if len(runs) > 1}
    if not config.compares:
        sentence = _of_one_arm(values[tuned[0]], len(runs), metric) if values else _ONE_ARM_ONCE
        return {
            "count": len(runs),
            "metric": metric,
            "runs": runs,
            "spread": values or None,
            "trained_again": None,
            "sentence": sentence,
        }
    spread = _spread(runs, values) if values else None
    sentence = _ONE_SEED if spread is None else _several(runs, spread, metric)
    for run in runs:
        files = (("config.json", ArmConfig), ("summary.json", ArmSummary))
        found_twins = twins(*(arm_records(study, *file, seed=run["seed"]) for file in files))
        run["twins"] = None if found_twins is None else found_twins["matched"]
    again = _trained_again(
        list(scored.values()), metric, items, rules, [run["delta"] for run in runs]
    )
    return {
        "count": len(runs),
        "metric": metric,
        "runs": runs,
        "spread": spread,
        "trained_again": again,
        "sentence": sentence,
    }


def _trained_again(
    scored: Sequence[Mapping[str, Cell]],
    metric: str,
    items: list[str],
    rules: Rules,
    deltas: Sequence[float],
) -> dict[str, Any] | None:
    if len(scored) < 2:
        return None
    baseline, candidate = (
        averaged([found[name] for found in scored]) for name in (BASELINE, CANDIDATE)
    )
    result = rules.compare(baseline, candidate, metric, items)
    # the standard error that the interval over items stands for, with the degrees of freedom of its units
    degrees = max(1.0, (result.n_clusters or result.n) - 1.0)
    half = (result.ci_high - result.ci_low) / 2
    error = StandardError(half / float(stats.t.ppf(0.975, degrees)), degrees)
    found = trained_again(result.delta, error, deltas, rules.level)
    margin = rules.margin(metric)
    needed = (
        None
        if margin is None
        else seeds_needed(
            result.delta,
            error,
            deltas,
            margin=margin,
            higher_is_better=result.higher_is_better,
            level=rules.level,
        )
    )
    return {
        "delta": result.delta,
        "ci": list(found.interval),
        "seed_share": found.seed_share,
        "degrees_of_freedom": found.degrees_of_freedom,
        "seeds_needed": needed,
    }


def _of_one_arm(spread: Mapping[str, float], count: int, metric: str) -> Message:
    how = shown(metric)
    places = how.decimals + 1
    sd, low, high = (figure(spread[key] * how.factor, places) for key in ("sd", "min", "max"))
    mean = spread["mean"]
    return m(
        "Over {count} training seeds the {metric} is {mean} on average (standard deviation {sd}, from {low} to "
        "{high}).",
        count=count,
        metric=Message(how.phrase),
        mean=share_of(mean, places) if how.suffix else amount(mean, metric, places),
        sd=sd,
        low=low,
        high=high,
    )


def _run(
    number: int, cells: Mapping[str, Cell], items: list[str], config: StudyConfig, rules: Rules
) -> dict[str, Any]:
    metric = rules.declared.primary_metric
    run: dict[str, Any] = {
        "seed": number,
        "training_seed": config.train.seed + number - 1,
        **{name: figure_of(cell, metric, items) for name, cell in cells.items()},
    }
    if config.compares:
        result = rules.compare(cells[BASELINE], cells[CANDIDATE], metric, items, level=rules.level)
        run |= {
            "delta": result.delta,
            "ci": [result.ci_low, result.ci_high],
            "verdict": result.verdict,
        }
    return run


def _spread(
    runs: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Mean and standard deviation over the runs; the difference with a t interval of k − 1 degrees of freedom."""
    deltas, count = [run["delta"] for run in runs], len(runs)
    mean, sd = float(np.mean(deltas)), float(np.std(deltas, ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return {
        **values,
        "delta": {"mean": mean, "sd": sd, "ci": [mean - half, mean + half]},
        "within_arm_sd": math.sqrt(
            (values[BASELINE]["sd"] ** 2 + values[CANDIDATE]["sd"] ** 2) / 2
        ),
    }


def _spread_of(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "min": min(values),
        "max": max(values),
    }


_ONE_ARM_ONCE = m(
    "The assistant was trained once. The intervals cover the choice of held-out items, not the variation "
    "of training. To measure that, train with more seeds: seeds: 3 in study.yaml, or --set seeds=3."
)
_ONE_SEED = m(
    "Each arm was trained once. The intervals cover the choice of held-out items, not the variation of "
    "training, so another seed could change the difference by more than they show. To measure that, train "
    "with more seeds: seeds: 3 in study.yaml, or --set seeds=3."
)


def _several(runs: Sequence[Mapping[str, Any]], spread: Mapping[str, Any], metric: str) -> Message:
    how, delta, inside = shown(metric), spread["delta"], spread["within_arm_sd"]
    places = how.decimals + 1
    low, high = (figure(end * how.factor, places, plus=True) for end in delta["ci"])
    first = m(
        "Over {runs} training seeds, the same in both arms, QLoRA minus LoRA is {difference} on average (95% interval "
        "over seeds {low} to {high}).",
        runs=len(runs),
        difference=amount(delta["mean"], metric, places, plus=True),
        low=low,
        high=high,
    )
    sd = figure(inside * how.factor, places)
    if abs(delta["mean"]) <= inside:
        compared = m(
            "This difference between the arms is smaller than the effect of another seed within an arm (standard "
            "deviation {sd}).",
            sd=sd,
        )
    elif delta["ci"][0] <= 0 <= delta["ci"][1]:
        compared = m(
            "This difference between the arms is larger than the effect of another seed within an arm (standard "
            "deviation {sd}), but with so few seeds it is not distinguishable from zero.",
            sd=sd,
        )
    else:
        compared = m(
            "This difference between the arms is larger than the effect of another seed within an arm (standard "
            "deviation {sd}).",
            sd=sd,
        )
    verdicts = [Message(run["verdict"]) for run in runs]
    if len(set(map(str, verdicts))) == 1:
        last = m("Every seed gives the same verdict: {verdict}.", verdict=verdicts[0])
    else:
        listed = [
            m("seed {seed}: {verdict}", seed=run["seed"], verdict=verdict)
            for run, verdict in zip(runs, verdicts, strict=True)
        ]
        last = m("The seeds give different verdicts ({listed}).", listed=listed)
    return joined([first, compared, last])
