"""Which GGUF file to ship: every file against the 16-bit assistant, and the smallest one that is no worse.

The files of an arm are tested from the largest to the smallest. The level of a verdict begins at the largest file of
the reference's arm; a file that is shown to be no worse passes its level on (:mod:`evals.stats.graphical`). The
probability of naming any file that is worse by more than a margin is thus at most that of one verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, QAT, with_arm
from assistant_builder.atomic_io import read_json
from assistant_builder.export_formats import file_to_train_for
from assistant_builder.i18n import N_, Message, Text, joined, m, t
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.study import Study
from evals.compare import Comparison
from evals.decision import Decision, decide, more_questions
from evals.metrics import METRICS
from evals.report import number_format as fmt
from evals.report.load import Cell, figure, read_formats, tuned_cells
from evals.report.number_format import amount, decimals, level_message, shown, span, value_of
from evals.report.rules import Rules
from evals.report.schema import Report
from evals.stats.graphical import graphical_test, sequences_graph
from evals.stats.intervals import LEVEL

NOT_TESTED = "not tested"
VERDICTS = {
    "no worse": N_("no worse"),
    "worse": N_("worse"),
    "inconclusive": N_("inconclusive"),
    NOT_TESTED: N_("not tested, because a file before it was not shown to be no worse"),
}
SKIPPED = "skipped.json"
"""File in the folder of the scores of files: why some are missing."""


def formats_of(study: Study, cells: Mapping[str, Cell], rules: Rules) -> dict[str, Any]:
    """The fields of the report about GGUF files; none if the settings name none, or another approach has them.

    ``delta`` and ``ci`` of a file are on the primary metric, candidate − reference in its units; ``level`` is the
    coverage of ``ci``, at which the file was tested, that of all files if it was not. ``bounds`` has every metric of
    the decision. ``kl`` is the mean KL divergence of the dequantized weights from the reference in nats per token, over
    the reference answers of ``kl_items`` items; None if it was not computed.

    Raises:
        EvaluationError: The scores of a file are of other items than those of the reference.
    """
    scored = [view.approach for view in study.views if view.format_scores_folder.is_dir()]
    own = study.approach or study.views[0].approach
    if not study.config.formats.types or own not in (scored or [study.views[0].approach]):
        return {}
    name = tuned_cells(study.config.arms)[0]
    reference = cells[name]
    arms = sorted(
        study.config.arms, key=lambda arm: ARMS[arm].cell != name
    )  # that of the reference first
    files = {
        arm: {str(cell.scores["type"]): cell for cell in read_formats(study, arm, reference)}
        for arm in arms
    }

    whole = rules.level_of_files

    @cache
    def decided(arm: str, type: str, level: float) -> tuple[dict[str, Comparison], Decision]:
        compared = _compare(reference, files[arm][type], rules, level)
        return compared, decide(compared, rules.bounds)

    tested = graphical_test(
        sequences_graph([[(arm, type) for type in files[arm]] for arm in arms]),
        lambda file, share: decided(*file, _level(share, whole))[1].outcome == "no worse",
    )
    rows, advice = [], {}
    for (arm, type), result in tested.items():
        level = _level(result.share, whole)
        compared, decision = decided(arm, type, level)
        rows.append(
            _row(files[arm][type], arm, reference, rules, compared)
            | {
                "level": level,
                "outcome": decision.outcome,
                "verdict": decision.outcome if result.share else NOT_TESTED,
            }
        )
        primary = next(iter(compared.values()))
        advice[arm, type] = more_questions(decision, primary.n, primary.n_clusters)
    passed = [row for row in rows if row["verdict"] == "no worse"]
    order = list(GGUF_TYPES)
    # of equal types that of the arm tested first: the order of their scores is chance where none is shown to differ
    smallest = min(
        passed, key=lambda row: (-order.index(row["name"]), arms.index(row["arm"])), default=None
    )
    path = study.format_scores_folder / SKIPPED
    found: dict[str, Any] = {
        "formats": rows,
        "formats_reference": reference.name,
        "smallest_no_worse": smallest and {"name": smallest["name"], "arm": smallest["arm"]},
        "formats_skipped": (
            read_json(path, _Skipped)["reason"]
            if path.is_file()
            else ""
            if rows
            else m("No GGUF file was scored.")
        ),
    }
    if rows:
        found["formats_through"] = _through(files, rules)
        first = smallest or next((row for row in rows if row["verdict"] != NOT_TESTED), rows[0])
        found |= {
            "formats_sentence": _sentence(first, reference, found=smallest is not None),
            "formats_action": _action(study, first, advice[first["arm"], first["name"]]),
        }
    return found


class _Skipped(TypedDict):
    reason: str


def _through(files: Mapping[str, Mapping[str, Cell]], rules: Rules) -> list[dict[str, Any]]:
    """Files of arms that are trained through the rounding, against those of the same type that were rounded afterwards.

    ``delta`` and ``ci`` are on the primary metric, trained through the rounding − rounded afterwards, at 95 %.
    """
    found = []
    for arm in (name for name in files if ARMS[name].rounds):
        for other in (name for name in files if not ARMS[name].rounds):
            for type in files[arm].keys() & files[other].keys():
                metric, result = next(
                    iter(_compare(files[other][type], files[arm][type], rules, LEVEL).items())
                )
                ends = {"ci_low": float(result.ci_low), "ci_high": float(result.ci_high)}
                found.append(
                    {
                        "arm": arm,
                        "against": other,
                        "name": type,
                        "metric": metric,
                        "delta": float(result.delta),
                        "ci": list(ends.values()),
                        "n": result.n,
                        "sentence": m(
                            "The {type} file of {arm}, which was trained through the rounding, against that of "
                            "{other}, which was rounded afterwards: {difference} in {metric} (95% interval "
                            "{interval}).",
                            type=type,
                            arm=Message(ARMS[arm].plain),
                            other=Message(ARMS[other].plain),
                            difference=amount(
                                float(result.delta), metric, decimals(metric, ends), plus=True
                            ),
                            metric=Message(shown(metric).phrase),
                            interval=span(ends, metric),
                        ),
                    }
                )
    return found


def _level(share: Fraction, whole: float) -> float:
    """Coverage of the interval of a file that is tested at a share of the level; that of a verdict if it is not."""
    return float(1 - (1 - whole) * (share or 1))


def _compare(reference: Cell, cell: Cell, rules: Rules, level: float) -> dict[str, Comparison]:
    """Those bounds of the decision that were scored, the primary metric first."""
    found = {}
    for metric in rules.bounds:
        items = _items(reference, cell, rules, metric)
        if len(items) > 1:
            found[metric] = rules.compare(reference, cell, metric, items, level=level)
    return found


def _items(reference: Cell, cell: Cell, rules: Rules, metric: str) -> list[str]:
    return [
        item
        for item in rules.items(reference, metric)
        if reference.value(item, metric) is not None and cell.value(item, metric) is not None
    ]


def _row(
    cell: Cell, arm: str, reference: Cell, rules: Rules, compared: Mapping[str, Comparison]
) -> dict[str, Any]:
    primary, result = next(iter(compared.items()))
    items = {metric: _items(reference, cell, rules, metric) for metric in METRICS}
    right = [
        (reference.value(item, "exact_match"), cell.value(item, "exact_match"))
        for item in _items(reference, cell, rules, "exact_match")
    ]
    kept = (
        "bytes",
        "tensor_types",
        "sha256",
        "file",
        "tokens_per_second",
        "first_token_seconds",
        "resident_bytes",
        "load_seconds",
    )
    return {
        "name": cell.scores["type"],
        "arm": arm,
        **{key: cell.scores[key] for key in kept},
        "metrics": {
            metric: figure(cell, metric, found) for metric, found in items.items() if found
        },
        "metric": primary,
        "delta": float(result.delta),
        "ci": [float(result.ci_low), float(result.ci_high)],
        "margin": result.margin,
        "n": result.n,
        "higher_is_better": result.higher_is_better,
        "bounds": [
            {
                "metric": metric,
                "margin": each.margin,
                "delta": float(each.delta),
                "ci": [float(each.ci_low), float(each.ci_high)],
                "outcome": each.verdict,
                "n": each.n,
            }
            for metric, each in compared.items()
        ],
        "not_shown": [metric for metric in rules.bounds if metric not in compared],
        "flips": {
            "lost": sum(was == 1 and now != 1 for was, now in right),
            "gained": sum(was != 1 and now == 1 for was, now in right),
        },
        "same_answers": {
            "same": sum(
                sample["answer"] == reference.by_item[item]["answer"]
                for item, sample in cell.by_item.items()
            ),
            "of": len(cell.by_item),
        },
        "warnings": list(result.limits),
        "kl": cell.scores.get("kl"),
        "kl_items": cell.scores.get("kl_items", 0),
    }


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """A file with its figures, as values of messages."""
    metric = row["metric"]
    ends = {"ci_low": row["ci"][0], "ci_high": row["ci"][1], "margin": row["margin"]}
    return {
        "arm": Message(ARMS[row["arm"]].plain),
        "type": row["name"],
        "size": fmt.size_of(row["bytes"]),
        "metric": Message(shown(metric).phrase),
        "value": value_of(row["metrics"][metric], metric),
        "difference": amount(row["delta"], metric, decimals(metric, ends), plus=True),
        "level": level_message(row["level"]),
        "interval": span(ends, metric),
    }


def _sentence(row: Mapping[str, Any], reference: Cell, *, found: bool) -> Message:
    values = {
        "reference": Message(ARMS[reference.scores.get("adapter") or "lora"].plain),
        "cell": reference.name,
        **_measured(row),
    }
    if found:
        return m(
            "The smallest file that is no worse than {reference} in PyTorch ({cell}) is {arm} as {type} ({size}): "
            "{metric} {value}, {difference} ({level} interval {interval}).",
            **values,
        )
    return m(
        "No file is shown to be no worse than {reference} in PyTorch ({cell}). The first one tested is {arm} as "
        "{type} ({size}), {verdict}: {metric} {value}, {difference} ({level} interval {interval}).",
        verdict=Message(row["verdict"]),
        **values,
    )


def _action(study: Study, row: Mapping[str, Any], advice: Text) -> Message:
    """What to do about the file that is named, or about the first one that was tested if none is."""
    if row["verdict"] == "no worse":
        command = (
            f"export {study.name} --arm {row['arm']} --format gguf --type {row['name']} --to DIR"
        )
        return m("Ship it: '{command}'.", command=f"assistant-builder {command}")
    if advice:
        return m("{advice} Until then, ship the 16-bit model (--format merged).", advice=advice)
    if row["name"] == "BF16":
        ship = m("Ship the 16-bit model (--format merged).")
    else:
        types = ",".join(study.config.formats.types)
        ship = m(
            "Ship the 16-bit model (--format merged), or score a larger file ('{command}').",
            command=f"assistant-builder run {study.name} --redo --set formats.types=BF16,{types}",
        )
    return joined([ship, _offer(study, row)])


def _offer(study: Study, row: Mapping[str, Any]) -> Text:
    """The training that a file which loses can be made by; empty if the study has it, or the file is not for it."""
    type = file_to_train_for({"formats": [row]}, study.config.arms)
    if type is None:
        return ""
    arms = ",".join(with_arm(study.config.arms, QAT.name))
    return m(
        "Or train an assistant for this file: '{command}'.",
        command=f"assistant-builder run {study.name} --set arms={arms} --set train.qat_type={type}",
    )


def kl_sentence(report: Report) -> str:
    """What the divergences in the table are, in the current language; empty without any."""
    items = [row["kl_items"] for row in report.formats if row.get("kl") is not None]
    if not items:
        return ""
    return t(
        "KL is the mean divergence of the next-token distribution from that of {reference}, in nats per token over "
        "{items:,} reference answers, with dequantized weights in PyTorch.",
        reference=report["formats_reference"],
        items=items[0],
    )
