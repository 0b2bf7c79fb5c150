"""The verdict on models: their results as cells, compared with the reference by the declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.i18n import Message, Text, as_in_files, capitalized, joined, m
from evals.decision import Decision, more_questions
from evals.metrics import score_sample
from evals.model_compare.candidates import Item, Result
from evals.records import figures, sample_record
from evals.report.contrasts import with_holm
from evals.report.load import Cell
from evals.report.number_format import shown
from evals.report.rules import Rules
from evals.report.schema import in_files
from evals.report.verdict import harm_interval, harmed_bounds, measured_text, open_bounds
from evals.study_compare.compare import metric_rows, verdict_records


@dataclass(frozen=True)
class _Target:
    nll: float
    tokens: int
    mean_probability: None = None


def cell_of(
    letter: str, items: Sequence[Item], results: Mapping[str, Result], tokens: Mapping[str, int]
) -> Cell:
    """A candidate's scores; ``tokens`` weigh the losses: those of the answers, or their bytes."""
    taught = {item["reference"] for item in items if not item["answerable"]}
    samples = []
    for item in items:
        result = results[item["item"]]
        weight = tokens[item["item"]]
        target: Any = None if result.nll is None else _Target(result.nll, weight)
        sample = sample_record(
            {**item, "tokens": weight},
            answer=result.answer,
            target=target,
            scores={},
            taught=taught,
            finish=result.finish,
        )
        if result.error is not None:  # no answer declines nothing
            sample |= {"declined": False, "error": result.error}
        sample["metrics"] |= score_sample(sample)
        samples.append(sample)
    return Cell(letter, tuple(samples), {})


def weights_of(
    items: Sequence[Item], results: Sequence[Mapping[str, Result]]
) -> tuple[dict[str, int], bool]:
    """The weight of each item's loss, and whether these are bytes, because the candidates tokenize differently."""
    counted = [
        {each[item["item"]].tokens for each in results if each[item["item"]].tokens}
        for item in items
    ]
    if all(len(counts) == 1 for counts in counted):
        return {item["item"]: counts.pop() for item, counts in zip(items, counted, strict=True)}, (
            False
        )
    sizes = {item["item"]: len(item["reference"].encode("utf-8")) or 1 for item in items}
    return sizes, any(counted)


def compare(
    items: Sequence[Item],
    results: Mapping[str, Mapping[str, Result]],
    names: Mapping[str, str],
    rules: Rules,
    level: float,
) -> dict[str, Any]:
    """Compare every candidate with the first.

    Args:
        items: The items.
        results: Letter → item → result, the reference first.
        names: Letter → name.
        rules: The rules of the declaration.
        level: Level of the intervals of the verdicts.

    Returns:
        ``loss`` (``nll_per_token``, ``nll_per_byte`` or None), ``figures`` by letter, ``verdicts`` and ``contrasts``.
    """
    weights, per_byte = weights_of(items, list(results.values()))
    if per_byte:  # the margin per token, at the mean bytes of a token of the reference
        first = next(iter(results.values()))
        tokens = sum(result.tokens for result in first.values())
        rules = rules.scaled_loss(tokens / sum(weights.values()))
    cells = {letter: cell_of(letter, items, each, weights) for letter, each in results.items()}
    reference, *others = cells.values()
    verdicts, contrasts = [], []
    for other in others:
        found = metric_rows(reference, other, rules, per_byte=per_byte)
        for row in with_holm(found):
            row |= {
                "name": f"{other.name}-{reference.name}",
                "cell": other.name,
                "baseline": reference.name,
                "candidate": other.name,
            }
            contrasts.append(row)
        for verdict in verdict_records(reference, other, rules, level, per_byte=per_byte):
            verdict |= {"cell": other.name, "baseline": reference.name}
            with as_in_files():
                sentence = verdict_sentence(verdict, names[reference.name], names[other.name])
                advice = advice_of(verdict)
                verdicts.append(in_files({**verdict, "sentence": sentence, "advice": advice}))
    scored = all(result.nll is not None for each in results.values() for result in each.values())
    return {
        "loss": None if not scored else "nll_per_byte" if per_byte else "nll_per_token",
        "figures": {letter: figures(cell.samples) for letter, cell in cells.items()},
        "verdicts": verdicts,
        "contrasts": [in_files(row) for row in contrasts],
        "samples": {letter: cell.samples for letter, cell in cells.items()},
    }


def verdict_sentence(verdict: Mapping[str, Any], a: str, b: str) -> Message:
    """The verdict in a sentence with difference, interval and margin; ``a`` is the reference."""
    low, high = harm_interval(verdict)
    margin, how = verdict["margin"], shown(verdict["metric"])
    amount = Message("{value:.10g}", {"value": float(f"{margin * how.factor:.3g}")})
    measured = measured_text(verdict, m("its"))
    values: dict[str, Text] = {
        "a": a,
        "b": b,
        "measured": measured,
        "limit": joined([amount, Message(how.unit)]),
    }
    if verdict["outcome"] == "worse" and low <= 0:
        return m(
            "{b} is worse than {a} in another respect, beyond the margin: {harmed}. {measured}.",
            **values | {"measured": capitalized(measured)},
            harmed=harmed_bounds(verdict),
        )
    if verdict["outcome"] == "worse":
        return m("{b} is worse than {a}: {measured}; allowed are {limit}.", **values)
    if verdict["outcome"] == "no worse":
        if verdict["within_margin_but_worse"]:
            return m(
                "{b} is measurably worse than {a}, but within the {limit} that are allowed: {measured}.",
                **values,
            )
        return m("{b} is no worse than {a}: {measured}, within {limit}.", **values)
    if verdict["bounds"][0]["passed"]:
        return m(
            "It is inconclusive whether {b} is worse than {a}: {measured}, within {limit}, but more harm than is "
            "allowed is not ruled out for the {open}.",
            **values,
            open=open_bounds(verdict),
        )
    if high <= margin:
        return m(
            "This metric cannot show whether {b} is worse than {a}, because nearly all answers of both are right, or "
            "nearly all are wrong: {measured}.",
            **values,
        )
    return m(
        "It is inconclusive whether {b} is worse than {a}: {measured}; {limit} are allowed.",
        **values,
    )


def advice_of(verdict: Mapping[str, Any]) -> Message:
    """How many more questions would decide an open verdict; empty if it is decided, or none would."""
    if verdict["outcome"] != "inconclusive":
        return joined([])
    needed, n, clusters = verdict["needed"], verdict["n"], verdict["n_clusters"]
    decision = Decision(verdict["outcome"], (), (), needed["questions"], needed["clusters"])
    return more_questions(decision, n, clusters)
