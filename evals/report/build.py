"""Build ``report.json`` from the files of a study, without training, scoring or network access."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from assistant_builder.arms import CELLS, TWINS
from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from evals.metrics import METRICS
from evals.report import contrasts as comparing
from evals.report.contrasts import attribution, identities, not_compared, verdict_alone
from evals.report.glossary import BASELINE_TEXTS, CONTEXT
from evals.report.items import declining, flips, item_rows
from evals.report.load import Cell, figure, metrics_of, read_baselines, read_cells, served_cells, tuned_cells
from evals.report.other_results import beats_untuned, judged, reliability, task_records, votes
from evals.report.render import render_html, render_markdown
from evals.report.stability import fidelity, noise_floor, seeds, worst_items
from evals.report.study_facts import arm_records, curves, data_summary, exports, read_record, resources, twins
from evals.report.verdict import audience, counter_evidence, summary, verdict_sentence
from evals.report.warnings import power, warnings

VERSION = 1


def build_report(study: Study) -> dict[str, Any]:
    """The report as a JSON document: losses in nats per token, sizes in bytes, times in seconds.

    Raises:
        EvaluationError: The headline's cells are missing, cannot be compared, or lack the primary metric.
    """
    config = study.config
    primary, margin = config.eval.primary_metric, config.eval.margin
    cells, tuned = read_cells(study), tuned_cells(config.arms)
    baselines = read_baselines(study, cells[tuned[0]])
    usable = _usable(study, cells, baselines)
    compared = comparing.comparisons({**cells, **baselines}, usable, config.eval)
    rows = comparing.contrasts(compared, primary)
    rows_of_headline = [row for row in rows if row["name"] == comparing.HEADLINE]
    judged_row = next((row for row in rows_of_headline if "verdict" in row), None)
    items = item_rows(cells, list(usable), tuned)
    found_flips = flips(items) if config.compares else None
    configs, summaries = arm_records(study, "config.json"), arm_records(study, "summary.json")
    steps = [study.step(step) for step in study.shown_steps if step != "report"]  # which is still running
    report: dict[str, Any] = {
        "version": VERSION, "study": study.name, "primary_metric": primary,
        "verdict": comparing.verdict(judged_row, margin) if judged_row is not None
        else verdict_alone(study, rows, len(usable[primary])),
        "cells": {name: _cell_record(cell, usable) for name, cell in cells.items()},
        "baselines": {name: _cell_record(cell, usable) for name, cell in baselines.items()},
        "contrasts": rows, "identities": identities(rows),
        "resources": resources(study, summaries), "twins": twins(configs, summaries),
        "arms": {arm: {key: record.get(key) for key in ("base_storage", "compute_dtype", "device")}
                 for arm, record in configs.items()},
        "curves": curves(study),
        "flips": found_flips and {**found_flips, "noise_floor": noise_floor(study, cells, usable, found_flips)},
        "fidelity": fidelity(study), "worst": worst_items(study, cells), "tasks": task_records(study, cells),
        "reliability": reliability(cells, served_cells(config.arms)), "seeds": seeds(study, cells, usable[primary]),
        "judge": judged(study, cells), "votes": votes(study), "declining": declining(cells),
        "power": power(rows_of_headline, items, primary, margin), "data": data_summary(study), "items": items,
        "steps": [{"name": record.step, "started": record.started, "seconds": record.seconds,
                   "peak_memory_bytes": record.peak_memory_bytes} for record in steps if record.state == "succeeded"],
        "provenance": read_record(study.folder / "provenance.json"),
        # the twins are what every report was about before there was a choice
        "config": config.model_dump(mode="json", exclude={"arms"} if config.arms == list(TWINS) else None),
        "context": list(CONTEXT),
    }
    if not config.compares:
        report["not_compared"] = not_compared(config.arms)
    report["attribution"] = attribution(rows, report["cells"], primary)
    report["exports"] = exports(compared, report["cells"], report["resources"], primary, margin)
    report["beats_untuned"] = beats_untuned(rows, {**report["cells"], **report["baselines"]})
    report["warnings"] = warnings(report)
    report["objection"] = counter_evidence(rows_of_headline, report["verdict"]["outcome"])
    sentence = verdict_sentence(report["verdict"], audience(items, report["verdict"]))
    report["sentence"] = f"{sentence} {report['objection']}".strip()
    report["summary"] = summary(report)
    return report


def write_report(study: Study) -> Path:
    """Write ``report.json``, then ``report.html`` and ``report.md`` from the content of that file.

    Returns:
        Path of ``report.html``.

    Raises:
        EvaluationError: As in :func:`build_report`; nothing is written then.
    """
    write_json(study.folder / "report.json", build_report(study))
    report = read_json(study.folder / "report.json")
    write_text(study.folder / "report.md", render_markdown(report))
    path = study.folder / "report.html"
    write_text(path, render_html(report))
    return path


def _usable(study: Study, cells: dict[str, Cell], baselines: dict[str, Cell]) -> dict[str, list[str]]:
    """Metric → the items it is computed on; the primary metric must be among them."""
    tuned = tuned_cells(study.config.arms)
    usable = metrics_of({**cells, **baselines}, tuple(METRICS), tuned)
    primary = study.config.eval.primary_metric
    if primary not in usable:
        where = " and ".join(reversed(tuned))
        raise EvaluationError(
            f"the primary metric {primary} was not scored on {f'both {where}' if len(tuned) > 1 else where}",
            where=str(study.folder / "evals"),
            remedy=f"Set eval.primary_metric to a scored metric ({', '.join(usable) or 'none'}), or score again with "
            f"'assistant-builder run {study.name} --redo'",
        )
    return usable


def _cell_record(cell: Cell, usable: dict[str, list[str]]) -> dict[str, Any]:
    """A cell's figures; ``metrics`` repeats ``nll_per_token`` so that it has every metric."""
    figures = {metric: figure(cell, metric, items) for metric, items in usable.items() if cell.has(metric)}
    loss = figures.get("nll_per_token")
    kept = ("base", "adapter", "base_bytes", "compute_dtype", "batch_size", "seconds")
    if cell.name in CELLS:
        label, about = CELLS[cell.name].label, CELLS[cell.name].about
    else:
        label, about = BASELINE_TEXTS[cell.name]
        about = about.replace("float16 base", f"{cell.scores.get('base') or 'float16'} base")
    return {
        "items": len(cell.samples), "tokens": sum(sample["tokens"] for sample in cell.samples), "nll_per_token": loss,
        "perplexity": None if loss is None else math.exp(min(loss, 700.0)), "metrics": figures, "label": label,
        "about": about, **{key: cell.scores[key] for key in kept if key in cell.scores},
    }
