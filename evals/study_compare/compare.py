"""Compare two studies cell by cell and item by item: shared items, differences, warnings, verdicts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import CELLS, LORA
from assistant_builder.data import load_split
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import as_in_files, m, mn
from assistant_builder.study import Study
from assistant_builder.study.contents import Provenance, Split
from assistant_builder.study.limits import answer_limit
from evals.decision import decide
from evals.metrics import METRICS
from evals.report.contrasts import bound_records, clusters_of, figures_of, with_holm
from evals.report.load import BASELINE, CANDIDATE, Cell, figure, independent_units, read_cells
from evals.report.number_format import plain, plural, shown
from evals.report.rules import Rules
from evals.report.schema import in_files
from evals.report.study_facts import flatten, read_record
from evals.stats.intervals import look_level
from evals.study_compare.messages import summary, verdict_sentence

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Matching:
    """The shared items of two studies, by their names in both, in the first study's order, and the other items.

    ``other_system`` is the number of shared items with different system prompts.
    """

    shared: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_system: int


def shared_cell(a: Mapping[str, Cell], b: Mapping[str, Cell]) -> str:
    """The name of a cell of both studies for matching their items, preferably that of an assistant.

    Raises:
        EvaluationError: The studies share no cell.
    """
    for name in (BASELINE, CANDIDATE, *a):
        if name in a and name in b:
            return name
    raise EvaluationError(
        m("the {studies} share no cell: scored are {a} and {b}", a=", ".join(a), b=", ".join(b)),
        where="compare",
        remedy=m("Train the same arms in both (arms), or score the same cells ({eval.cells})"),
    )


def match_items(a: Cell, b: Cell) -> Matching:
    """Pair items by prompt and reference, because row numbers differ between data files.

    Items with the same system prompt are paired first, then items that differ in the system prompt alone, so that two
    system prompts can be compared. Duplicate items are paired in their order.
    """
    exact, left_a, left_b = _paired(a.samples, b.samples, with_system=True)
    others, left_a, left_b = _paired(left_a, left_b, with_system=False)
    place = {item: number for number, item in enumerate(a.by_item)}
    shared = sorted(exact + others, key=lambda pair: place[pair[0]])
    only_a, only_b = (tuple(str(sample["item"]) for sample in left) for left in (left_a, left_b))
    return Matching(tuple(shared), only_a, only_b, len(others))


def _paired(
    a: Sequence[Sample], b: Sequence[Sample], *, with_system: bool
) -> tuple[list[tuple[str, str]], list[Sample], list[Sample]]:
    """Pairs of item names, and the unpaired samples of both sides."""

    def key(sample: Sample) -> Hashable:
        messages = [
            message for message in sample["prompt"] if with_system or message["role"] != "system"
        ]
        return tuple((message["role"], message["content"]) for message in messages), sample[
            "reference"
        ]

    waiting: dict[Hashable, list[Sample]] = {}
    for sample in b:
        waiting.setdefault(key(sample), []).append(sample)
    pairs, left = [], []
    for sample in a:
        same = waiting.get(key(sample))
        if same:
            pairs.append((str(sample["item"]), str(same.pop(0)["item"])))
        else:
            left.append(sample)
    return pairs, left, [sample for samples in waiting.values() for sample in samples]


def trained_on(study: Study, cell: Cell, other: Study) -> frozenset[str] | None:
    """Held-out items of a study whose question is also in the training or validation split of another study.

    Questions are compared without case, spacing and sentence punctuation. None if a study's splits are not on record.

    Raises:
        DataError: A split file was changed after it was frozen.
    """
    folders = [each.folder / "data" for each in (study, other)]
    if not all((folder / "split.json").is_file() for folder in folders):
        return None
    seen = {
        casefold_normalize(pair.compared_question)
        for split in ("train", "validation")
        for pair in load_split(folders[1], split)
    }
    heldout = load_split(folders[0], "heldout")
    rows = {pair.row for pair in heldout if casefold_normalize(pair.compared_question) in seen}
    return frozenset(str(sample["item"]) for sample in cell.samples if sample["row"] in rows)


_IRRELEVANT = (
    "name",
    "version",
    "data.source",
    "train.preset",
    "train.sample_answers",
    "train.allow_low_memory",
    "eval.judge_url",
    "eval.judge_model",
    "eval.judge_items",
    "eval.price_per_hour",
    "formats.types",
)
"""Settings that do not change the score of any cell."""
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def differences(a: Study, b: Study, cell_a: Cell, cell_b: Cell) -> list[dict[str, Any]]:
    """All recorded differences of two studies that can affect the scores: ``{"setting", "a", "b"}``, settings first.

    Hashes have 12 digits; a value that is unset or not on record is ``None``.
    """
    facts_a, facts_b = dict(_facts(a, cell_a)), dict(_facts(b, cell_b))
    return [
        {"setting": key, "a": facts_a.get(key), "b": facts_b.get(key)}
        for key in dict.fromkeys([*facts_a, *facts_b])
        if facts_a.get(key) != facts_b.get(key)
    ]


def _facts(study: Study, cell: Cell) -> Iterator[tuple[str, Any]]:
    config = study.config
    settings = dict(flatten(config.model_dump(mode="json"))) | {
        "eval.max_new_tokens": answer_limit(study)
    }
    yield from ((key, value) for key, value in settings.items() if key not in _IRRELEVANT)
    provenance = read_record(study.folder / "provenance.json", Provenance)
    hashes = read_record(study.folder / "data" / "split.json", Split).get("hashes", {})
    digests = {
        f"{name} data, SHA-256": hashes.get(split)
        for split, name in (
            ("train", "train"),
            ("validation", "validation"),
            ("heldout", "held-out"),
        )
    }
    digests["base model, SHA-256"] = (provenance.get("base_model") or {}).get("sha256")
    yield "data file", Path(config.data.source).name or None
    yield from ((key, digest and digest[:12]) for key, digest in digests.items())
    yield "arithmetic of scoring", cell.scores.get("compute_dtype")
    yield "assistant-builder", provenance.get("assistant_builder")
    for package in _PACKAGES:
        yield package, (provenance.get("packages") or {}).get(package)
    hardware = provenance.get("hardware") or {}
    yield "processor", hardware.get("cpu")
    yield "GPU", (hardware.get("gpu") or {}).get("name")


_MAKING = ("data.", "model.", "train.")
_FOLLOWING = {"train data, SHA-256": "data.", "base model, SHA-256": "model."}
"""Differences that follow from settings, and are reported only if no such setting differs."""
_SCORING = ("eval.max_new_tokens", "arithmetic of scoring")


def warnings(
    record: Mapping[str, Any], a: Study, b: Study, cells: tuple[Cell, Cell], matching: Matching
) -> list[str]:
    """The limitations of a comparison, one sentence each, those that affect the verdict first."""
    found = [
        *_about_statistics(record),
        *_about_leaks(a, b, cells, matching),
        *_about_the_metric(record, a, b),
    ]
    if record["only_a"] or record["only_b"]:
        found.append(
            f"Not compared: {plural(record['only_a'], 'held-out item')} of {record['a']} alone and "
            f"{record['only_b']:,} of {record['b']} alone; the verdict is about the shared items"
        )
    if matching.other_system:
        had = "has" if matching.other_system == 1 else "have"
        found.append(
            f"{plural(matching.other_system, 'shared item')} {had} different system prompts in the two "
            "studies"
        )
    return [*found, *_about_training(record, a, b)]


def _about_statistics(record: Mapping[str, Any]) -> Iterator[str]:
    cells: dict[str, list[str]] = {}
    for verdict in record["verdicts"]:
        for text in verdict["warnings"]:
            cells.setdefault(f"{shown(verdict['metric']).label}: {text}", []).append(
                verdict["cell"]
            )
    yield from (f"{' and '.join(names)}, {text}" for text, names in cells.items())


def _about_leaks(a: Study, b: Study, cells: tuple[Cell, Cell], matching: Matching) -> Iterator[str]:
    if a.folder == b.folder:
        return
    for study, other, cell, side in ((a, b, cells[0], 0), (b, a, cells[1], 1)):
        found = trained_on(study, cell, other)
        if found is None:
            yield f"Whether {other.name} was trained on held-out items of {study.name} is not on record"
            continue
        compared = len(found & {pair[side] for pair in matching.shared})
        if compared:
            yield (
                f"Leak across the studies: {plural(compared, 'compared item')} of {study.name} "
                f"{'is' if compared == 1 else 'are'} also in the training or validation split of {other.name}, "
                "which makes its scores too high"
            )
        if len(found) > compared:
            more = len(found) - compared
            yield (
                f"{plural(more, 'held-out item')} of {study.name} {'is' if more == 1 else 'are'} in the training or "
                f"validation split of {other.name} and therefore not compared"
            )


def _about_the_metric(record: Mapping[str, Any], a: Study, b: Study) -> Iterator[str]:
    ours, theirs = (_decisive(study) for study in (a, b))
    if record["loss"] != "nll_per_token":
        yield (
            "The two studies tokenize the same references differently, so their losses per token are not "
            "comparable: the loss is given in nats per UTF-8 byte of the reference instead"
            + (
                f", and the margin of {plain(ours[1])} nats per token is converted with the mean bytes per token of "
                f"{a.name}"
                if ours[0] == "nll_per_token"
                else ""
            )
        )
    if ours != theirs:
        yield (
            f"{b.name} defines its verdict on {shown(theirs[0]).phrase} with a margin of {plain(theirs[1])}; "
            f"these verdicts use that of {a.name}: {shown(ours[0]).phrase}, margin {plain(ours[1])}"
        )
    if not set(a.config.arms) & set(b.config.arms):
        yield (
            f"{a.name} trains {a.config.arms[0]} alone and {b.name} {b.config.arms[0]} alone, so there is no common "
            "assistant to compare: no verdict"
        )
    elif not record["verdicts"]:
        yield f"{shown(ours[0]).label}, which decides the verdict, was not scored in both studies: no verdict"


def _about_training(record: Mapping[str, Any], a: Study, b: Study) -> Iterator[str]:
    if a.folder == b.folder:
        yield "A and B are the same study"
        return
    if max(a.config.seeds, b.config.seeds) == 1:
        yield (
            "One training run on each side: the intervals cover the choice of items, not the variation between "
            "training seeds"
        )
    else:
        yield "Only the first training run of each study is compared; its own report has the other seeds"
    changed = [row["setting"] for row in record["differences"]]
    made = [key for key in changed if key.startswith(_MAKING)]
    made += [
        key
        for key, cause in _FOLLOWING.items()
        if key in changed and not any(k.startswith(cause) for k in made)
    ]
    if len(made) > 1:
        yield f"The studies differ in several settings ({', '.join(made)}), so no single one explains the result"
    scored = [key for key in changed if key in _SCORING]
    if scored:
        yield f"The studies were scored differently ({', '.join(scored)}), which can change scores by itself"


JUDGED = (CANDIDATE, BASELINE)
"""The cells with a verdict: QLoRA as served, and float16 LoRA."""
PER_BYTE = "nll_per_byte"
"""The loss for studies with different tokenizers: Σ nll / Σ UTF-8 bytes of the references, in nats."""


def compare_studies(a: Study, b: Study, *, tries: int = 1) -> dict[str, Any]:
    """Compare study ``b`` (candidate) with study ``a`` (baseline) on the held-out items that both have.

    The metrics and margins of ``a`` determine the verdicts. Both may be the same study.

    Args:
        a: The baseline.
        b: The candidate.
        tries: Comparisons so far that share an error rate with this one. The intervals of the verdicts are those of as
            many looks, counted from the later one of the studies' own.

    Returns:
        ``a``, ``b`` (names), ``shared_items``, ``only_a``, ``only_b`` (counts), ``loss`` (``nll_per_token``, or
        ``nll_per_byte`` for different tokenizers), ``differences`` (``setting, a, b``), ``verdicts`` (one for each of
        Q4 and L16 that both have), ``contrasts`` (as in ``report.json``, named ``Q4: B-A``, with the figures ``a`` and
        ``b``), ``warnings`` and ``sentence``.

    Raises:
        EvaluationError: A study has not been evaluated, its scores are inconsistent, or the two share too few items or
            no cell.
        DataError: A split of a study was changed after it was frozen.
    """
    cells_a, cells_b = _evaluated(a), _evaluated(b)
    like = shared_cell(cells_a, cells_b)
    matching = match_items(cells_a[like], cells_b[like])
    if len(matching.shared) < 2:
        raise EvaluationError(
            mn(
                "{studies} {first} and {second} share {count} held-out item, and a comparison needs at least two",
                "{studies} {first} and {second} share {count} held-out items, and a comparison needs at least two",
                len(matching.shared),
                first=a.name,
                second=b.name,
            ),
            where="compare",
            remedy=m(
                "Shared items have the same question and reference: use the same data file in both {studies}, with a "
                "split column or the same {data.seed} and {data.heldout_fraction}"
            ),
        )
    pairs = [
        (cells_a[like].by_item[one], cells_b[like].by_item[other]) for one, other in matching.shared
    ]
    per_byte = any(one["tokens"] != other["tokens"] for one, other in pairs)
    weights = [
        len(one["reference"].encode("utf-8", "surrogatepass")) or 1 if per_byte else one["tokens"]
        for one, _ in pairs
    ]
    sides = [
        _aligned(cells_a[name], cells_b[name], matching, weights)
        for name in CELLS
        if name in cells_a and name in cells_b
    ]
    rules, tokens = _rules(a, cells_a), sum(one["tokens"] for one, _ in pairs)
    look = max(rules.declared.look, Rules.of(b).declared.look)
    if per_byte:  # converted with the mean bytes per token of A
        rules = rules.scaled_loss(tokens / sum(weights))
    record: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "shared_items": len(pairs),
        "only_a": len(matching.only_a),
        "only_b": len(matching.only_b),
        "loss": PER_BYTE if per_byte else "nll_per_token",
        "differences": differences(a, b, cells_a[like], cells_b[like]),
        **_compared(sides, rules, look_level(look + tries - 1), per_byte=per_byte),
    }
    with as_in_files():
        record["verdicts"] = [
            in_files({**verdict, "sentence": verdict_sentence(verdict, a.name, b.name)})
            for verdict in record["verdicts"]
        ]
    record["warnings"] = warnings(record, a, b, (cells_a[like], cells_b[like]), matching)
    record["sentence"] = summary(record)
    return in_files(record)


def _rules(study: Study, cells: Mapping[str, Cell]) -> Rules:
    """The rules of a study with the margin of the loss, as in its report."""
    rules = Rules.of(study)
    untuned, tuned = cells.get(LORA.untuned_cell), cells.get(LORA.cell)
    return rules.with_gain(
        untuned, tuned, rules.items(tuned, "nll_per_token") if tuned is not None else []
    )


def _decisive(study: Study) -> tuple[str, float]:
    """The primary metric of a study and its margin."""
    rules = _rules(study, read_cells(study))
    return rules.declared.primary_metric, rules.margin(rules.declared.primary_metric) or 0.0


def _evaluated(study: Study) -> dict[str, Cell]:
    state = study.step("evaluate").state
    if state != "succeeded":
        raise EvaluationError(
            m("{study} {name} has not been evaluated ({state})", name=study.name, state=state),
            where="compare",
            remedy=m("Finish it with 'assistant-builder run {name}'", name=study.name),
        )
    return read_cells(study)


def _aligned(a: Cell, b: Cell, matching: Matching, weights: Sequence[int]) -> tuple[Cell, Cell]:
    """Both cells on the shared items, named by index; the clusters are those of ``a``, or of ``b`` if it has none.

    The weights, for a loss per byte the bytes of the reference, replace the tokens.
    """
    pairs = [(a.by_item[one], b.by_item[other]) for one, other in matching.shared]
    labels = clusters_of([one for one, _ in pairs]) or [other.get("cluster") for _, other in pairs]
    sides: list[Cell] = []
    for side, cell in enumerate((a, b)):
        sides.append(
            Cell(
                cell.name,
                tuple(
                    {
                        **pair[side],
                        "item": str(place),
                        "name": pair[0]["item"],
                        "tokens": weight,
                        "cluster": label,
                    }
                    for place, (pair, weight, label) in enumerate(
                        zip(pairs, weights, labels, strict=True)
                    )
                ),
                cell.scores,
            )
        )
    return sides[0], sides[1]


def _compared(
    sides: Sequence[tuple[Cell, Cell]], rules: Rules, level: float, *, per_byte: bool
) -> dict[str, Any]:
    verdicts, rows = [], []
    for one, other in sides:
        family = metric_rows(one, other, rules, per_byte=per_byte)
        if one.name in JUDGED:
            verdicts += verdict_records(one, other, rules, level, per_byte=per_byte)
        rows += with_holm([{"name": f"{one.name}: B-A", **row} for row in family])
    if not rows:
        raise EvaluationError(
            m("the shared items belong to a single cluster, which has no interval"),
            where="compare",
            remedy=m("Compare {studies} that share more of their held-out items"),
        )
    return {
        "verdicts": sorted(verdicts, key=lambda verdict: JUDGED.index(verdict["cell"])),
        "contrasts": rows,
    }


def metric_rows(one: Cell, other: Cell, rules: Rules, *, per_byte: bool) -> list[dict[str, Any]]:
    """The differences of every metric that both cells have, unadjusted, with the figures ``a`` and ``b``."""
    family = []
    for metric in METRICS:
        items = [
            item
            for item in one.by_item
            if one.value(item, metric) is not None and other.value(item, metric) is not None
        ]
        if independent_units(one, items) < 2:
            continue
        result = rules.compare(one, other, metric, items)
        named = PER_BYTE if per_byte and metric == "nll_per_token" else metric
        family.append(
            {
                "cell": one.name,
                "metric": named,
                "baseline": "A",
                "candidate": "B",
                "a": figure(one, metric, items),
                "b": figure(other, metric, items),
                **figures_of(result),
            }
        )
    return family


def verdict_records(
    one: Cell, other: Cell, rules: Rules, level: float, *, per_byte: bool
) -> list[dict[str, Any]]:
    """The decision of all bounds on the items of the headline; none if the primary metric cannot be compared."""
    bounds = {}
    for metric in rules.bounds:
        items = [
            item
            for item in rules.items(one, metric)
            if one.value(item, metric) is not None and other.value(item, metric) is not None
        ]
        if independent_units(one, items) > 1:
            bounds[metric] = rules.compare(one, other, metric, items, level=level)
    primary = rules.declared.primary_metric
    if primary not in bounds:
        return []
    decision, result, figures = (
        decide(bounds, rules.bounds),
        bounds[primary],
        figures_of(bounds[primary]),
    )
    return [
        {
            "cell": one.name,
            "outcome": decision.outcome,
            "level": level,
            "metric": PER_BYTE if per_byte and primary == "nll_per_token" else primary,
            "margin": result.margin,
            "delta": figures["delta"],
            "ci": [figures["ci_low"], figures["ci_high"]],
            "within_margin_but_worse": decision.outcome == "no worse" and result.harm[1] > 0,
            "bounds": bound_records(bounds, decision),
            "not_shown": [metric for metric in rules.bounds if metric not in bounds],
            "needed": {"questions": decision.needed, "clusters": decision.clusters},
            **{
                key: figures[key]
                for key in ("p_value", "n", "n_clusters", "higher_is_better", "warnings")
            },
        }
    ]
