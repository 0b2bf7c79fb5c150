"""The differences between cells: paired comparisons, the verdict, and their attribution to storage and training.

The statistics are in ``evals.compare``; this module selects cells, items and weights. For a study that does not train
both twins it lists what was not compared, and how to compare it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assistant_builder.arms import (
    ARMS,
    LORA,
    QLORA,
    TWINS,
    further_arms,
    headline_arms,
)
from assistant_builder.i18n import Message, Text, m
from assistant_builder.planning.memory_check import where_both_fit
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.compare import Comparison, holm
from evals.decision import Decision, action, decide, harmful
from evals.metrics import metric_of
from evals.report.load import BASELINE, CANDIDATE, Cell
from evals.report.number_format import amount, decimals, enumerated, figure, shown, span
from evals.report.rules import Rules
from evals.stats.intervals import LEVEL, look_level


@dataclass(frozen=True)
class Contrast:
    """Two cells to compare: ``candidate`` minus ``baseline``."""

    candidate: str
    baseline: str
    meaning: Message

    @property
    def name(self) -> str:
        """``Q4-L16``."""
        return f"{self.candidate}-{self.baseline}"


PAIRS = (
    Contrast(CANDIDATE, BASELINE, m("QLoRA as served, against its 16-bit twin")),
    Contrast("L4", "L16", m("putting the 16-bit-trained adapter on the {bits}-bit base")),
    Contrast("Q4", "L4", m("what training on the {bits}-bit base gains or loses")),
    Contrast("B4", "B16", m("storing the untuned base in {bits} bits")),
    Contrast("Q16", "Q4", m("moving QLoRA's adapter to the full base, as most tools export it")),
    Contrast("QD", "Q4", m("merging QLoRA's adapter into its dequantized base for export")),
    Contrast("QR", "QD", m("quantizing that export again")),
    Contrast("QR", "Q4", m("that export, merged and quantized again, against QLoRA as served")),
    Contrast("LM", "L16", m("merging the 16-bit adapter into the full base for export")),
    Contrast("LR", "LM", m("quantizing that export")),
    Contrast("LR", "L16", m("tuning in 16-bit and quantizing afterwards, against the 16-bit twin")),
    Contrast(
        "Q4",
        "LR",
        m("QLoRA against tuning in 16-bit and quantizing afterwards, at the same serving memory"),
    ),
    Contrast(
        "QR", "LR", m("the requantized export against tuning in 16-bit and quantizing afterwards")
    ),
    Contrast("L16", "B16", m("what tuning changed, 16-bit")),
    Contrast("Q4", "B4", m("what tuning changed, {bits}-bit")),
    Contrast(
        "L16", "copy", m("16-bit LoRA against copying the answer of the nearest training question")
    ),
    Contrast("Q4", "copy", m("QLoRA against copying the answer of the nearest training question")),
    Contrast(
        "L16", "retrieval", m("16-bit LoRA against the untuned base shown three retrieved pairs")
    ),
    Contrast("Q4", "retrieval", m("QLoRA against the untuned base shown three retrieved pairs")),
)
"""The contrasts of the twins, the headline first; those whose cells are both scored are shown."""
HEADLINE = PAIRS[0].name


def all_pairs() -> tuple[Contrast, ...]:
    """The contrasts of a report: those of the twins, then those of the further arms."""
    found = list(PAIRS)
    for arm in map(ARMS.__getitem__, further_arms(ARMS)):
        name = {"arm": arm.short}
        found += [
            Contrast(
                arm.cell, twin.cell, m("{arm} as served, against {twin}", twin=twin.short, **name)
            )
            for twin in (LORA, QLORA)
        ]
        merged = (
            m("leaving {arm} in 16 bits, without the rounding that it was trained through", **name)
            if arm.rounds
            else m("merging the adapter of {arm} into its dequantized base for export", **name)
        )
        found += [
            Contrast(arm.merged_cell, arm.cell, merged),
            Contrast(arm.cell, arm.untuned_cell, m("what tuning changed, {arm}", **name)),
            Contrast(
                arm.cell,
                "copy",
                m("{arm} against copying the answer of the nearest training question", **name),
            ),
            Contrast(
                arm.cell,
                "retrieval",
                m("{arm} against the untuned base shown three retrieved pairs", **name),
            ),
        ]
    return tuple(found)


Comparisons = dict[tuple[str, str], Comparison]  # comparisons by name of the pair and metric


def comparisons(
    cells: Mapping[str, Cell], usable: Mapping[str, list[str]], rules: Rules
) -> Comparisons:
    """Compare every pair of :func:`all_pairs` on every metric that both cells have, in this order."""
    return {
        (pair.name, metric): rules.compare(
            cells[pair.baseline], cells[pair.candidate], metric, items
        )
        for pair in all_pairs()
        if {pair.candidate, pair.baseline} <= cells.keys()
        for metric, items in usable.items()
        if cells[pair.candidate].has(metric) and cells[pair.baseline].has(metric)
    }


def contrasts(compared: Comparisons, decisive: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """The comparisons as records, one for each pair and metric; ``decisive`` has the primary one of the headline.

    ``delta`` is candidate − baseline in the metric's units and equals the difference of the two cells' figures;
    ``p_value_holm``, for claims of improvement, is adjusted over the metrics of the same pair. The headline's record of
    the primary metric has the verdict of that metric alone.
    """
    rows = []
    for pair in all_pairs():
        family: list[dict[str, Any]] = [
            {
                "name": name,
                "metric": metric,
                "baseline": pair.baseline,
                "candidate": pair.candidate,
                "meaning": pair.meaning,
                **figures_of(result),
            }
            for (name, metric), result in compared.items()
            if name == pair.name
        ]
        rows += with_holm(family)
    for row in rows:
        if row["name"] == HEADLINE and row["metric"] in decisive:
            result = decisive[row["metric"]]
            row |= {
                "verdict": result.verdict,
                "within_margin_but_worse": bool(result.within_margin_but_worse),
            }
    return rows


def with_holm(family: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ``p_value_holm``, adjusted over all of them."""
    adjusted = holm([row["p_value"] for row in family])
    return [
        {**row, "p_value_holm": float(value)} for row, value in zip(family, adjusted, strict=True)
    ]


def figures_of(result: Comparison) -> dict[str, Any]:
    """The fields of a comparison that every row of the report has."""
    return {
        "delta": float(result.delta),
        "ci_low": float(result.ci_low),
        "ci_high": float(result.ci_high),
        "p_value": float(result.p_value),
        "n": int(result.n),
        "n_clusters": result.n_clusters,
        "method": result.method,
        "higher_is_better": result.higher_is_better,
        "warnings": list(result.limits),
    }


def clusters_of(samples: list[dict[str, Any]]) -> list[Any] | None:
    """The samples' cluster labels; ``None`` if no sample has one."""
    labels = [sample.get("cluster") for sample in samples]
    return labels if any(label is not None for label in labels) else None


def clearly_worse(row: Entries) -> bool:
    """Whether the whole interval of a row is on the harmful side of zero."""
    return bool(row["ci_high"] < 0 if row["higher_is_better"] else row["ci_low"] > 0)


def clearly_better(row: Entries) -> bool:
    """Whether the whole interval of a row is on the good side of zero."""
    return bool(row["ci_low"] > 0 if row["higher_is_better"] else row["ci_high"] < 0)


def in_words(row: Entries, worse: Message, better: Message, unclear: Message) -> Message:
    """One of three texts, by the side of zero on which the whole interval of a row is."""
    return worse if clearly_worse(row) else better if clearly_better(row) else unclear


def verdict(
    compared: Callable[[float], Mapping[str, Comparison]],
    rules: Rules,
    *,
    seeds: Mapping[str, Any],
    uncovered: int,
) -> dict[str, Any]:
    """The verdict of all bounds together, with the figures of the primary metric that its sentence needs.

    Args:
        compared: Level of the intervals → metric → comparison of QLoRA with its twin, averaged over the training seeds;
            the primary metric first.
        rules: The rules of the study.
        seeds: ``count`` and ``trained_again`` of the report's seeds.
        uncovered: Number of held-out items that the verdict is not about, because their facts were not taught.
    """
    bounds = {
        metric: each for metric, each in compared(rules.level).items() if metric in rules.bounds
    }
    metric, result = next(iter(bounds.items()))
    decision, again = decide(bounds, rules.bounds), seeds["trained_again"]
    further = (
        compared(look_level(rules.declared.look + 1))
        if decision.outcome == "inconclusive"
        else bounds
    )
    at_next = decide({metric: further[metric] for metric in bounds}, rules.bounds)
    return {
        "outcome": decision.outcome,
        "metric": metric,
        "margin": result.margin,
        "delta": float(result.delta),
        "ci": [float(result.ci_low), float(result.ci_high)],
        "p_value": float(result.p_value),
        "n": int(result.n),
        "n_clusters": result.n_clusters,
        "contrast": HEADLINE,
        "higher_is_better": result.higher_is_better,
        "within_margin_but_worse": decision.outcome == "no worse" and result.harm[1] > 0,
        "warnings": list(result.limits),
        "perplexity_change": None
        if metric != "nll_per_token"
        else {
            "share": math.expm1(result.delta),
            "ci": [math.expm1(result.ci_low), math.expm1(result.ci_high)],
        },
        "bounds": bound_records(bounds, decision),
        "not_shown": [name for name in rules.bounds if name not in bounds],
        "to_decline": rules.to_decline,
        "possible_harm": harmful(compared(LEVEL)),
        "level": rules.level,
        "look": rules.declared.look,
        "estimand": rules.declared.estimand,
        "clustered_by": list(result.clustered_by),
        "uncovered": uncovered,
        "frozen": rules.record(),
        "seeds": seeds["count"],
        "trained_again": again,
        "action": action(
            replace(at_next, outcome=decision.outcome),
            n=result.n,
            n_clusters=result.n_clusters,
            seeds=seeds["count"],
            seeds_decide=again is not None and again["seed_share"] > 0.5,
        ),
    }


def bound_records(bounds: Mapping[str, Comparison], decision: Decision) -> list[dict[str, Any]]:
    """The compared bounds of a decision as records."""
    return [
        {
            "metric": name,
            "margin": each.margin,
            "delta": float(each.delta),
            "ci": [float(each.ci_low), float(each.ci_high)],
            "passed": name not in decision.failed,
            "outcome": each.verdict,
            "higher_is_better": each.higher_is_better,
            "n": int(each.n),
        }
        for name, each in bounds.items()
    ]


_WEIGHTS = (m("a clear loss"), m("a clear gain"), m("not clearly different from zero"))
_PARTS = (
    ("L4-L16", m("storing the base in {bits} bits")),
    ("Q4-L4", m("training in {bits} bits")),
)


def attribution(rows: Sequence[Mapping[str, Any]], primary: str) -> dict[str, Any] | None:
    """The difference between the twins in two steps, on the metric of the verdict; ``None`` without L4."""
    of = {row["name"]: row for row in rows if row["metric"] == primary}
    if not {HEADLINE, *(name for name, _ in _PARTS)} <= of.keys():
        return None
    places, how = decimals(primary, of[HEADLINE]), shown(primary)
    storing, training = (
        m(
            "{step} accounts for {difference} (95% interval {interval}: {weight})",
            step=label,
            difference=figure(of[name]["delta"] * how.factor, places, plus=True),
            interval=span(of[name], primary),
            weight=in_words(of[name], *_WEIGHTS),
        )
        for name, label in _PARTS
    )
    return {
        "metric": primary,
        "sentence": m(
            "From {baseline} to {candidate} the {metric} changes by {change}: {storing}, {training}.",
            baseline=BASELINE,
            candidate=CANDIDATE,
            metric=Message(how.phrase),
            change=amount(of[HEADLINE]["delta"], primary, places, plus=True),
            storing=storing,
            training=training,
        ),
    }


_MISSING = {LORA.name: m("its 16-bit twin"), QLORA.name: m("QLoRA on the same data")}


def verdict_alone(
    study: Study, rows: Sequence[Mapping[str, Any]], items: int, rules: Rules
) -> dict[str, Any]:
    """The verdict of a study that does not train both twins: without figures, with ``reason`` and ``action``.

    The number of clusters is that of the first arm's contrast with its untuned base among ``rows``.
    """
    config = study.config
    metric, arm = rules.declared.primary_metric, ARMS[headline_arms(config.arms)[0]]
    lead = (f"{arm.cell}-{arm.untuned_cell}", metric)
    n_clusters = next(
        (row["n_clusters"] for row in rows if (row["name"], row["metric"]) == lead), None
    )
    missing = [arm for arm in TWINS if arm not in config.arms]
    lacks = _MISSING[missing[0]] if len(missing) == 1 else _named(TWINS)
    return {
        "outcome": "inconclusive",
        "metric": metric,
        "margin": rules.margin(metric),
        "delta": None,
        "ci": [None, None],
        "p_value": None,
        "n": items,
        "n_clusters": n_clusters,
        "contrast": None,
        "higher_is_better": metric_of(metric).higher_is_better,
        "within_margin_but_worse": False,
        "warnings": [],
        "perplexity_change": None,
        "bounds": [],
        "possible_harm": [],
        "estimand": rules.declared.estimand,
        "frozen": rules.record(),
        "reason": m(
            "This {study} trains {arms} alone: without {lacks} it cannot say what {bits}-bit would cost.",
            arms=_named(config.arms),
            lacks=lacks,
        )
        if QLORA.name in missing
        else m(
            "This {study} trains {arms} alone: without {lacks} it cannot say what {bits}-bit cost.",
            arms=_named(config.arms),
            lacks=lacks,
        ),
        "action": _action(study, lacks),
    }


def _named(arms: Sequence[str]) -> Text:
    """Short names in a sentence: ``16-bit LoRA, QLoRA and 8-bit QLoRA``."""
    return enumerated([ARMS[arm].short for arm in arms])


def _action(study: Study, lacks: Text) -> Message:
    config = study.config
    wanted = [arm for arm in ARMS if arm in (*TWINS, *config.arms)]
    command = f"'assistant-builder run {study.name} --set arms={','.join(wanted)}'"
    kept = m("{arms} as it is trained here is kept.", arms=_named(config.arms))
    place = where_both_fit(study)
    if place == "here":
        return m(
            "Add {lacks}, which fits this machine: {command}. {kept}",
            lacks=lacks,
            command=command,
            kept=kept,
        )
    machine = (
        m("a machine that holds both, such as one with one {card}", card=place)
        if place
        else m("a machine whose GPUs hold it together (executor.spread=fsdp)")
    )
    return m(
        "Add {lacks} on {machine}: copy the {study}'s folder there and run {command}. {kept}",
        lacks=lacks,
        machine=machine,
        command=command,
        kept=kept,
    )
