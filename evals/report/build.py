"""Build ``report.json`` from the files of a study, without training, scoring or network access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS, CELLS, TWINS, headline_arms
from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from evals.metrics import METRICS
from evals.report import contrasts as comparing
from evals.report.contrasts import attribution, identities, not_compared, verdict_alone
from evals.report.glossary import CONTEXT, baseline_text
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
    cells = read_cells(study)
    tuned = tuned_cells(config.arms)
    baselines = read_baselines(study, cells[tuned[0]])
    usable = _usable(study, cells, baselines)
    primary = config.eval.primary_metric
    compared = comparing.comparisons({**cells, **baselines}, usable, config.eval)
    rows = comparing.contrasts(compared, primary)
    rows_of_headline = [row for row in rows if row["name"] == comparing.HEADLINE]
    judged_row = next((row for row in rows_of_headline if "verdict" in row), None)
    items = item_rows(cells, list(usable), tuned)
    report: dict[str, Any] = {
        "version": VERSION,
        "study": study.name,
        "primary_metric": primary,
        "verdict": comparing.verdict(judged_row, config.eval.margin) if judged_row is not None
        else verdict_alone(study, _lead_row(rows, config.arms, primary), len(usable[primary])),
        "cells": {name: _cell_record(cell, usable) for name, cell in cells.items()},
        "baselines": {name: _cell_record(cell, usable) for name, cell in baselines.items()},
        "contrasts": rows,
        "identities": identities(rows),
        **_arms(study),
        "flips": _flips(study, cells, usable, items) if config.compares else None,
        **_other_results(study, cells, usable[primary]),
        "power": power(rows_of_headline, items, primary, config.eval.margin),
        "data": data_summary(study),
        "items": items,
        "steps": _steps(study),
        "provenance": read_record(study.folder / "provenance.json"),
        # the twins are what every report was about before there was a choice
        "config": config.model_dump(mode="json", exclude={"arms"} if config.arms == list(TWINS) else None),
        "context": list(CONTEXT),
    }
    if not config.compares:
        report["not_compared"] = not_compared(config.arms)
    report["attribution"] = attribution(rows, report["cells"], primary)
    report["exports"] = exports(compared, report["cells"], report["resources"], primary, config.eval.margin)
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


def _lead_row(rows: list[dict[str, Any]], arms: Sequence[str], primary: str) -> dict[str, Any] | None:
    """The contrast of the first arm's assistant with the untuned base on the primary metric."""
    arm = ARMS[headline_arms(arms)[0]]
    name = f"{arm.cell}-{arm.untuned_cell}"
    return next((row for row in rows if (row["name"], row["metric"]) == (name, primary)), None)


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


def _flips(
    study: Study, cells: dict[str, Cell], usable: dict[str, list[str]], items: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Flips between the assistants, with the noise floor of the arithmetic."""
    found = flips(items)
    return None if found is None else {**found, "noise_floor": noise_floor(study, cells, usable, found)}


def _other_results(study: Study, cells: dict[str, Cell], items: list[str]) -> dict[str, Any]:
    """The measurements in addition to the cells' scores; ``items`` are those of the primary metric."""
    return {
        "fidelity": fidelity(study), "worst": worst_items(study, cells), "tasks": task_records(study, cells),
        "reliability": reliability(cells, served_cells(study.config.arms)), "seeds": seeds(study, cells, items),
        "judge": judged(study, cells), "votes": votes(study), "declining": declining(cells),
    }


def _cell_record(cell: Cell, usable: dict[str, list[str]]) -> dict[str, Any]:
    """A cell's figures; ``metrics`` repeats ``nll_per_token`` so that it has every metric."""
    figures = {metric: figure(cell, metric, items) for metric, items in usable.items() if cell.has(metric)}
    loss = figures.get("nll_per_token")
    kept = ("base", "adapter", "base_bytes", "compute_dtype", "batch_size", "seconds")
    text = CELLS.get(cell.name) or baseline_text(cell.name, cell.scores.get("base"))
    return {
        "items": len(cell.samples), "tokens": sum(sample["tokens"] for sample in cell.samples), "nll_per_token": loss,
        "perplexity": None if loss is None else math.exp(min(loss, 700.0)), "metrics": figures, "label": text.label,
        "about": text.about, **{key: cell.scores[key] for key in kept if key in cell.scores},
    }


def _arms(study: Study) -> dict[str, Any]:
    configs, summaries = arm_records(study, "config.json"), arm_records(study, "summary.json")
    return {
        "resources": resources(study, summaries), "twins": twins(configs, summaries),
        "arms": {arm: {key: record.get(key) for key in ("base_storage", "compute_dtype", "device")}
                 for arm, record in configs.items()},
        "curves": curves(study),
    }


def _steps(study: Study) -> list[dict[str, Any]]:
    """Time and memory of each finished step; the report step itself is still running."""
    records = [study.step(step) for step in study.shown_steps if step != "report"]
    return [{"name": record.step, "started": record.started, "seconds": record.seconds,
             "peak_memory_bytes": record.peak_memory_bytes} for record in records if record.state == "succeeded"]
