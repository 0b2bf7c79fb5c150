"""Build ``report.json`` from the files of a study, without training, scoring or network access."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from assistant_builder.arms import CELLS, FOUR_BIT, LORA, TWINS
from assistant_builder.atomic_io import write_json, write_text
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import Message, as_in_files, bits, enumerated, joined, m
from assistant_builder.quantization import texts_of
from assistant_builder.retrieval.build import answers_added
from assistant_builder.retrieval.copying import COPY
from assistant_builder.runner.document_training import question_counts
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmConfig, ArmSummary, Provenance
from assistant_builder.study.limits import answer_limit
from assistant_builder.study.steps import SUFFIXES
from evals.compare import Comparison
from evals.declaration import EXACT, LOSS, RIGHT_DECLINES
from evals.report import contrasts as comparing
from evals.report import promise
from evals.report.approaches import add_approaches
from evals.report.contrasts import attribution, verdict_alone
from evals.report.formats import formats_of
from evals.report.glossary import BASELINE_TEXTS, CONTEXT
from evals.report.in_conversation import conversation, not_verbatim
from evals.report.items import declining, flips, item_rows, with_copies
from evals.report.load import (
    BASELINE,
    CANDIDATE,
    Cell,
    figure,
    metrics_of,
    read_baselines,
    read_cells,
    served_cells,
    tuned_cells,
)
from evals.report.other_results import beats_untuned, judged, votes
from evals.report.other_words import is_respelled
from evals.report.own_questions import own_questions
from evals.report.render import render_html, render_markdown
from evals.report.rules import Rules, averaged
from evals.report.schema import VERSION, Report, in_files
from evals.report.stability import fidelity, noise_floor, seed_cells, seeds
from evals.report.study_facts import (
    arm_records,
    curves,
    data_summary,
    exports,
    read_record,
    resources,
    twins,
)
from evals.report.task_results import task_records
from evals.report.to_come import to_come
from evals.report.verdict import audience, basis, counter_evidence, verdict_sentence
from evals.report.warnings import power, warnings
from evals.stats.intervals import LEVEL
from evals.work_items import first_cells

ENDINGS = ("json", "md", "html")
"""Of the files of a report."""


@as_in_files()
def build_report(study: Study) -> dict[str, Any]:
    """The report as a JSON document: losses in nats per token, sizes in bytes, times in seconds.

    Raises:
        EvaluationError: The headline's cells are missing, cannot be compared, or lack the primary metric.
    """
    with texts_of(study.config.model.quant_type):
        return _build_report(study)


def _build_report(study: Study) -> dict[str, Any]:
    config = study.config
    cells, tuned = read_cells(study), tuned_cells(config.arms)
    baselines = read_baselines(study, cells[tuned[0]])
    rules = Rules.of(study)
    usable = _usable(study, {**cells, **baselines}, rules)
    # those of the first report: a cell that is scored later leaves no item out of the verdict
    first = {name: cells[name] for name in first_cells(config.arms) if name in cells}
    decisive = _usable(study, first, rules)
    rules = rules.with_gain(
        cells.get(LORA.untuned_cell), cells.get(LORA.cell), decisive.get(LOSS, [])
    )
    primary = rules.declared.primary_metric
    compared = comparing.comparisons({**cells, **baselines}, usable, rules)
    rows = comparing.contrasts(
        compared,
        {}
        if not config.compares
        else {
            primary: rules.compare(
                cells[BASELINE], cells[CANDIDATE], primary, decisive[primary], level=rules.level
            )
        },
    )
    rows_of_headline = [row for row in rows if row["name"] == comparing.HEADLINE]
    copies = baselines.get(COPY) if config.grounded else None
    items = with_copies(item_rows(cells, list(usable), tuned), copies, usable)
    found_flips = flips(items) if config.compares else None
    by_seed = seed_cells(study, cells)
    found_seeds = seeds(study, by_seed, decisive[primary], rules)
    unlike = rules.uncovered(cells[tuned[0]])
    items = [{**row, "uncovered": True} if row["item"] in unlike else row for row in items]
    headline = cache(partial(headline_comparisons, by_seed, decisive, rules))
    verdict = in_files(
        comparing.verdict(headline, rules, seeds=found_seeds, uncovered=len(unlike))
        if config.compares
        else verdict_alone(study, rows, len(decisive[primary]), rules)
    )
    margin = verdict["margin"]
    configs, summaries = (
        arm_records(study, "config.json", ArmConfig),
        arm_records(study, "summary.json", ArmSummary),
    )
    steps = [
        study.step(step) for step in study.shown_steps if step != "report"
    ]  # which is still running
    report: dict[str, Any] = {
        "version": VERSION,
        "study": study.name,
        "primary_metric": primary,
        "verdict": verdict,
        "cells": {name: _cell_record(cell, usable) for name, cell in cells.items()},
        "baselines": {name: _cell_record(cell, usable) for name, cell in baselines.items()},
        "contrasts": rows,
        "resources": resources(study, summaries),
        "twins": twins(configs, summaries),
        "arms": {
            arm: {key: record.get(key) for key in ("base_storage", "compute_dtype", "device")}
            for arm, record in configs.items()
        },
        "curves": curves(study),
        "flips": found_flips
        and {**found_flips, "noise_floor": noise_floor(study, cells, usable, found_flips, rules)},
        "fidelity": fidelity(study),
        "tasks": task_records(study, cells),
        "seeds": found_seeds,
        "judge": judged(study, cells),
        "votes": votes(study),
        "declining": declining(cells),
        "power": power(rows_of_headline, primary, margin),
        "data": data_summary(study),
        "items": items,
        "steps": [
            {
                "name": record.step,
                "started": record.started,
                "seconds": record.seconds,
                "peak_memory_bytes": record.peak_memory_bytes,
            }
            for record in steps
            if record.state == "succeeded"
        ],
        "provenance": read_record(study.folder / "provenance.json", Provenance),
        # the twins are what every report was about before there was a choice
        "config": config.model_dump(
            mode="json",
            exclude={
                *(["arms"] if config.arms == list(TWINS) else []),
                *([] if config.grounded else ["approaches", "retrieval"]),
            },
        ),
        "context": list(CONTEXT),
        "answer_limit": answer_limit(study),
        "to_come": to_come(study),
    }
    report["taught"] = rules.taught(cells[tuned[0]])
    if config.grounded and (added := answers_added(study)):
        report["added_answers"] = added
    if config.grounded:
        report["conversation"] = conversation(cells, served_cells(config.arms))
        report["not_verbatim"] = not_verbatim(study, cells, served_cells(config.arms))
    if (counts := question_counts(study)) is not None:
        report["document_questions"] = dict(counts)
    if (own := own_questions(study)) is not None:
        report["own_questions"] = own
    if "files" not in report["to_come"]:
        report |= formats_of(study, cells, rules)
    report = in_files(report)
    if is_respelled(Report.model_validate(report)):
        report["verdict"]["estimand"] = "respelled"
    else:
        if config.compares:
            report["other_claim"] = in_files(other_claim(by_seed, decisive[primary], rules))
        if config.grounded and EXACT in rules.bounds:
            report["promise"] = promise.of_study(study, {**cells, **baselines}, rules)
    if unlike:
        report["uncovered"] = {
            "items": len(unlike),
            "cells": {
                name: {
                    metric: figure(cell, metric, scored)
                    for metric in usable
                    if metric != RIGHT_DECLINES
                    and (
                        scored := [item for item in unlike if cell.value(item, metric) is not None]
                    )
                }
                for name, cell in cells.items()
            },
        }
    figures = {**report["cells"], **report["baselines"]}
    report = in_files(
        report
        | {
            "attribution": attribution(rows, primary),
            "exports": exports(
                compared,
                report["cells"],
                report["resources"],
                primary,
                margin,
                config.model.quant_type,
            ),
            "beats_untuned": beats_untuned(rows, figures),
        }
    )
    typed = Report.model_validate(report)
    report["warnings"] = [in_files(warning) for warning in warnings(typed)]
    averages = [
        {"metric": metric, **comparing.figures_of(result)}
        for metric, result in (headline(LEVEL) if config.compares else {}).items()
    ]
    objection = counter_evidence(averages, report["verdict"])
    sentence = verdict_sentence(
        report["verdict"], audience(items, report["verdict"], respelled=is_respelled(typed))
    )
    return in_files(
        report
        | {
            "objection": objection,
            "sentence": joined([sentence, objection]),
            "basis": basis(typed),
        }
    )


@as_in_files()
def write_report(study: Study) -> Path:
    """Write ``report.json``, then ``report.html``, whose path is returned, and ``report.md`` from that file.

    With two approaches they are about the recommended one; the files of the other one, ``report+memory.json`` or
    ``report+facts.json`` and so on, are written first.

    Raises:
        EvaluationError: As in :func:`build_report`; nothing is written then.
    """
    reports = {view.config.approaches[0]: build_report(view) for view in study.views}
    with texts_of(study.config.model.quant_type):
        recommended = add_approaches(study, reports)
    for outdated in (
        study.folder / f"report{suffix}.{ending}"
        for suffix in SUFFIXES.values()
        for ending in ENDINGS
    ):
        outdated.unlink(missing_ok=True)
    for translated in study.folder.glob("report*.??.html"):  # of the command report
        translated.unlink()
    for approach in sorted(reports, key=lambda approach: approach == recommended):
        name = "report" if approach == recommended else f"report{SUFFIXES[approach]}"
        write_json(study.folder / f"{name}.json", reports[approach])
        report = Report.load(study.folder / f"{name}.json")
        write_text(study.folder / f"{name}.md", render_markdown(report))
        path = study.folder / f"{name}.html"
        write_text(path, render_html(report))
    return path


def headline_comparisons(
    by_seed: Mapping[int, Mapping[str, Cell]],
    usable: Mapping[str, list[str]],
    rules: Rules,
    level: float,
) -> dict[str, Comparison]:
    """QLoRA against its twin on every metric, averaged over the training seeds; the metrics of the decision first."""
    baseline, candidate = (
        averaged([found[name] for found in by_seed.values()]) for name in (BASELINE, CANDIDATE)
    )
    return {
        metric: rules.compare(baseline, candidate, metric, usable[metric], level=level)
        for metric in dict.fromkeys([*rules.bounds, *usable])
        if metric in usable
        and all(
            cell.value(item, metric) is not None
            for cell in (baseline, candidate)
            for item in usable[metric]
        )
    }


def other_claim(
    by_seed: Mapping[int, Mapping[str, Cell]], items: list[str], rules: Rules
) -> dict[str, Any]:
    """The difference on the primary metric with the clusters of the claim that is not the headline."""
    baseline, candidate = (
        averaged([found[name] for found in by_seed.values()]) for name in (BASELINE, CANDIDATE)
    )
    result = rules.compare(
        baseline, candidate, rules.declared.primary_metric, items, other=True, level=rules.level
    )
    return {
        "estimand": "facts" if rules.declared.estimand == "wordings" else "wordings",
        "verdict": result.verdict,
        "clustered_by": list(result.clustered_by),
        **comparing.figures_of(result),
    }


def _usable(study: Study, cells: Mapping[str, Cell], rules: Rules) -> dict[str, list[str]]:
    """Metric → the items it is computed on; the primary metric must be among them."""
    tuned = tuned_cells(study.config.arms)
    usable = metrics_of(cells, tuned, rules.items)
    primary = rules.declared.primary_metric
    if primary not in usable:
        raise EvaluationError(
            m(
                "the primary metric {primary} was not scored on {cells}",
                primary=primary,
                cells=enumerated(tuned[::-1]),
            ),
            where=str(study.evals_folder),
            remedy=m(
                "Set {eval.primary_metric} to a scored metric ({usable}), or score again with 'assistant-builder run "
                "{name} --redo'",
                usable=", ".join(usable) or m("none"),
                name=study.name,
            ),
        )
    return usable


def _cell_record(cell: Cell, usable: dict[str, list[str]]) -> dict[str, Any]:
    """A cell's figures; ``metrics`` repeats ``nll_per_token`` so that it has every metric."""
    figures = {
        metric: figure(cell, metric, items) for metric, items in usable.items() if cell.has(metric)
    }
    loss = figures.get("nll_per_token")
    kept = (
        "base",
        "adapter",
        "base_bytes",
        "compute_dtype",
        "batch_size",
        "seconds",
        "cut_answers",
    )
    scores = dict(cell.scores)
    if scores.get("base") == FOUR_BIT:  # the name of the study's storage, whatever its bits
        scores["base"] = f"{bits()}-bit"
    if cell.name in CELLS:
        label, about = Message(CELLS[cell.name].label), CELLS[cell.name].about
    else:
        label, about = BASELINE_TEXTS[cell.name]
        if scores.get("base"):
            about = replace(about, values={name: scores["base"] for name in about.values})
    return {
        "items": len(cell.samples),
        "tokens": sum(sample["tokens"] for sample in cell.samples),
        "nll_per_token": loss,
        "perplexity": None if loss is None else math.exp(min(loss, 700.0)),
        "metrics": figures,
        "label": label,
        "about": about,
        **{key: scores[key] for key in kept if key in scores},
    }
