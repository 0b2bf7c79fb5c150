"""The report of a comparison of models: ``report.json``, and the same as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from assistant_builder.atomic_io import write_json, write_text
from assistant_builder.i18n import as_in_files, render
from assistant_builder.redaction import escape_control_characters
from evals.model_compare.candidates import Item
from evals.model_compare.declare import difference_text
from evals.report.markdown import escape
from evals.report.number_format import difference, interval, number, p_value, plain, plural, shown
from evals.report.schema import in_files

VERSION = 1
LISTED = 50
"""Items of each list on the page; ``report.json`` has all of them."""


def build_report(
    record: Mapping[str, Any], items: Sequence[Item], compared: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as a JSON document.

    Args:
        record: The declaration.
        items: The items.
        compared: The result of :func:`evals.model_compare.verdict.compare`.
    """
    candidates = []
    for each in record["candidates"]:
        samples = compared["samples"][each["letter"]]
        failed = [
            {"item": sample["item"], "row": sample["row"], "error": sample["error"]}
            for sample in samples
            if "error" in sample
        ]
        figures = compared["figures"][each["letter"]]
        candidates.append(
            {**each, "metrics": figures["metrics"], "declining": figures["declining"],
             "cut_answers": figures["cut_answers"], "errors": failed}
        )  # fmt: skip
    verdicts = compared["verdicts"]
    with as_in_files():
        notes = [render(note) for note in _notes(record, candidates, compared)]
    missing = len(candidates) - 1 - len(verdicts)
    said = [verdict["sentence"] for verdict in verdicts]
    said += ["There is no verdict on some candidates."] if missing else []
    return in_files(
        {
            "version": VERSION,
            "name": record["name"],
            "sentence": " ".join(said),
            "primary_metric": record["declared"]["primary_metric"],
            "loss": compared["loss"],
            "rests_on_answers": record["rests_on_answers"],
            "candidates": candidates,
            "verdicts": verdicts,
            "contrasts": compared["contrasts"],
            "notes": notes,
            "declaration": {key: record[key] for key in ("declared", "level", "sha256", "written")},
            "sampling": record["sampling"],
            "prompts": record["prompts"],
            "questions": record["inputs"]["questions"],
            "provenance": record["provenance"],
            "items": [
                {
                    **{key: item[key] for key in ("item", "row", "cluster", "answerable")},
                    "question": item["question"],
                    "reference": item["reference"],
                    "answers": {
                        letter: samples[place]["answer"]
                        for letter, samples in compared["samples"].items()
                    },
                    "metrics": {
                        letter: samples[place]["metrics"]
                        for letter, samples in compared["samples"].items()
                    },
                }
                for place, item in enumerate(items)
            ],
        }
    )


def _notes(
    record: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]
) -> list[str]:
    notes = []
    if record["rests_on_answers"]:
        lacking = [each["letter"] for each in candidates if not each["gives_loss"]]
        notes.append(
            f"The verdict rests on answers alone: {' and '.join(lacking)} cannot give the log-probabilities of "
            "reference answers, so that no loss is compared."
        )
    if compared["loss"] == "nll_per_byte":
        notes.append(
            "The candidates tokenize differently: the loss is given in nats per UTF-8 byte of the reference, and its "
            "margin is converted with the mean bytes per token of A."
        )
    notes += [render(difference_text(found)) for found in record["prompts"]]
    for each in candidates:
        if each["errors"]:
            first = each["errors"][0]
            notes.append(
                f"{each['letter']} gave no answer to {plural(len(each['errors']), 'question')}, which count as wrong; "
                f"the first is row {first['row']}: {first['error']}."
            )
        if each["cut_answers"]:
            notes.append(
                f"{plural(each['cut_answers'], 'answer')} of {each['letter']} reached the limit of "
                f"{record['sampling']['max_tokens']} tokens."
            )
    if len(candidates) > 2:
        notes.append(
            f"{len(candidates) - 1} candidates are compared with one reference, which share the error: the intervals "
            f"of the verdicts are at {100 * record['level']:.4g} %."
        )
    if record["declared"]["look"] > 1:
        notes.append(
            f"This is look {record['declared']['look']} at these or many of these questions: each further look is "
            "judged at a stricter level."
        )
    kinds = {each["kind"] for each in candidates}
    if "endpoint" in kinds:
        notes.append(
            "What an endpoint serves under a name can change, and is not known here: its address and name are recorded."
        )
    for verdict in compared["verdicts"]:
        notes += [f"{verdict['cell']}: {warning}." for warning in verdict["warnings"]]
    return list(dict.fromkeys(notes))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.md``, ``report.html`` and at last ``report.json``."""
    values = context(report)
    for ending in ("md", "html"):
        template = _environment(ending == "html").get_template(f"judgement.{ending}.j2")
        write_text(folder / f"report.{ending}", template.render(values))
    write_json(folder / "report.json", report)


def context(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show."""
    letters = [each["letter"] for each in report["candidates"]]
    metrics = list(dict.fromkeys(row["metric"] for row in report["contrasts"]))
    loss = report["loss"]
    with as_in_files():
        table = [
            [_title(metric), *(_figure(report, letter, metric, loss) for letter in letters)]
            for metric in metrics
        ]
        contrasts = [
            [
                f"{row['candidate']} − {row['baseline']}",
                _title(row["metric"]),
                difference(row["delta"], row["metric"], row),
                interval(row, row["metric"]),
                p_value(row["p_value_holm"]),
            ]
            for row in report["contrasts"]
        ]
        bounds = [
            [
                verdict["cell"],
                shown(bound["metric"]).label,
                plain(float(f"{bound['margin'] * shown(bound['metric']).factor:.3g}")),
                difference(bound["delta"], bound["metric"], _row(bound)),
                interval(_row(bound), bound["metric"]),
                "shown" if bound["passed"] else "not shown",
            ]
            for verdict in report["verdicts"]
            for bound in verdict["bounds"]
        ]
    primary = report["primary_metric"]
    flips = []
    for item in report["items"]:
        scores = {letter: item["metrics"][letter].get("exact_match") for letter in letters}
        if len(set(scores.values())) > 1:
            flips.append(item | {"right": [letter for letter in letters if scores[letter] == 1]})
    return {
        "report": report,
        "letters": letters,
        "table": table,
        "contrasts": contrasts,
        "bounds": bounds,
        "flips": flips[:LISTED],
        "all_flips": len(flips),
        "errors": [(each["letter"], failed) for each in report["candidates"] for failed in each["errors"]][:LISTED],
        "primary": shown(primary).label,
        "css": files("evals.report").joinpath("templates/style.css").read_text(encoding="utf-8"),
    }  # fmt: skip


def _row(bound: Mapping[str, Any]) -> dict[str, Any]:
    return {"ci_low": bound["ci"][0], "ci_high": bound["ci"][1], "margin": bound["margin"]}


def _title(metric: str) -> str:
    how = shown(metric)
    return f"{how.label}, {how.unit}" if how.factor == 1 else how.label


def _figure(report: Mapping[str, Any], letter: str, metric: str, loss: str | None) -> str:
    for row in report["contrasts"]:
        if row["metric"] == metric:
            if row["baseline"] == letter:
                return number(row["a"], metric)
            if row["candidate"] == letter:
                return number(row["b"], metric)
    return "–"


def _environment(escaped: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.model_compare"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_control_characters(value) if isinstance(value, str) else value,
    )  # fmt: skip
    environment.filters["cell"] = lambda text: escape(" ".join(str(text).split()))
    return environment
