"""The results of a sweep: the study selected by validation loss, and its held-out comparison with every other study.

The held-out questions are not used for the selection, so the selected study's held-out score has no selection bias, and
the tests against it are determined before the held-out scores are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.i18n import m
from assistant_builder.study import Study
from assistant_builder.study.contents import Split
from assistant_builder.study.steps import arm_runs, split_run
from assistant_builder.sweep.spec import VERSION, Sweep, Trial
from assistant_builder.sweep.summary import notes, sentence
from evals.compare import holm
from evals.report.load import served_cells
from evals.report.number_format import SIGNIFICANT
from evals.report.schema import Report
from evals.study_compare import compare_studies

Errors = Mapping[str, AssistantBuilderError]
_KEPT = ("metric", "delta", "p_value", "n", "n_clusters", "higher_is_better", "warnings")


def write_results(sweep: Sweep, errors: Errors, *, compared: bool = True) -> dict[str, Any]:
    """Write ``sweep.json`` and return its content, with the comparisons if ``compared``."""
    record = results(sweep, errors, compared=compared)
    write_json(sweep.folder / "sweep.json", record)
    return record


def results(sweep: Sweep, errors: Errors, *, compared: bool = True) -> dict[str, Any]:
    """The current results; the arguments are those of :func:`write_results`."""
    studies = [_study_row(sweep, trial, errors.get(trial.name)) for trial in sweep.trials]
    _require_one_split(sweep, studies)
    record: dict[str, Any] = {
        "version": VERSION,
        "name": sweep.name,
        "state": "",
        "folder": str(sweep.folder),
        "arm": sweep.arm,
        "metric": _metric(sweep),
        "sweep": sweep.values,
        "studies": studies,
        "selected": selected(studies),
        "comparisons": [],
    }
    if compared and record["selected"]:
        record["comparisons"] = _comparisons(sweep, studies, record["selected"])
    states = {row["state"] for row in studies}
    if "cancelled" in states:
        record["state"] = "cancelled"
    elif states <= {"succeeded", "failed"}:
        record["state"] = "failed" if "failed" in states else "succeeded"
    else:
        record["state"] = "running"
    record["sentence"] = sentence(record)
    record["notes"] = notes(record, seeds=sweep.trials[0].config.seeds)
    return record


def _metric(sweep: Sweep) -> str:
    chosen = sweep.trials[0].config.eval.primary_metric
    if chosen != "auto":
        return chosen
    for study in filter(None, map(sweep.study, sweep.trials)):
        if (study.folder / "report.json").exists():
            return Report.load(study.folder / "report.json").primary_metric
    return "nll_per_token"


def selected(studies: list[dict[str, Any]]) -> str | None:
    """The finished study with the lowest validation loss, the first in a tie; None if no study has finished."""
    finished = [row for row in studies if row["state"] == "succeeded"]
    return min(finished, key=lambda row: row["validation_loss"])["name"] if finished else None


def _study_row(sweep: Sweep, trial: Trial, error: AssistantBuilderError | None) -> dict[str, Any]:
    study = sweep.study(trial)
    state: str = study.state if study is not None else "queued"
    if state != "succeeded":
        state = "failed" if error is not None else state
    losses = _validation_losses(study) if study is not None else {}
    deciding = [losses[arm] for arm in sweep.judges if arm in losses]
    return {
        "name": trial.name,
        "settings": trial.settings,
        "state": state,
        "validation_losses": losses,
        "validation_loss": fmean(deciding) if len(deciding) == len(sweep.judges) else None,
        "heldout": _heldout(study) if study is not None and state == "succeeded" else {},
        "seconds": round(sum(study.step(step).seconds for step in study.shown_steps), 3)
        if study is not None
        else 0.0,
        "error": error.to_record() if error is not None else None,
    }


def _validation_losses(study: Study) -> dict[str, float]:
    """The validation loss of each arm whose trainings are done: that of the best checkpoint, averaged over seeds."""
    found: dict[str, list[float]] = {}
    for run in arm_runs(study.config.seeds, study.config.arms):
        path = study.arm_folder(run) / "summary.json"
        if path.exists() and study.step(f"train-{run}").state == "succeeded":
            loss = study.arm_summary(run)["best_validation_loss"]
            found.setdefault(split_run(run)[0], []).append(loss)
    return {
        arm: fmean(losses) for arm, losses in found.items() if len(losses) == study.config.seeds
    }


def _heldout(study: Study) -> dict[str, float]:
    """The figure of the primary metric in each arm's cell, from ``report.json``."""
    report = Report.load(study.folder / "report.json")
    metric = report.primary_metric
    figures = {}
    for cell in served_cells(study.config.arms):
        scores = report.cells[cell]
        value = (
            scores["nll_per_token"] if metric == "nll_per_token" else scores["metrics"].get(metric)
        )
        if value is not None:
            figures[cell] = value
    return figures


def _require_one_split(sweep: Sweep, studies: list[dict[str, Any]]) -> None:
    """Mark studies with another split than the first as failed: they were created again with other data."""
    first: dict[str, str] | None = None
    for trial, row in zip(sweep.trials, studies, strict=True):
        study = sweep.study(trial)
        path = study.folder / "data" / "split.json" if study is not None else None
        if path is None or not path.exists() or row["state"] != "succeeded":
            continue
        hashes = read_json(path, Split)["hashes"]
        first = first or hashes
        if hashes != first:
            error = EvaluationError(
                m("it has another split than the first {study} of the sweep"),
                where=m("{study} {name}", name=trial.name),
                remedy=m("Delete it and run the sweep again"),
            )
            row |= {"state": "failed", "error": error.to_record()}


def _comparisons(sweep: Sweep, studies: list[dict[str, Any]], chosen: str) -> list[dict[str, Any]]:
    by_name = {trial.name: sweep.study(trial) for trial in sweep.trials}
    cells = served_cells(sweep.judges)
    rows: list[dict[str, Any]] = []
    for row in studies:
        best, other = by_name[chosen], by_name[row["name"]]
        if row["state"] != "succeeded" or row["name"] == chosen or best is None or other is None:
            continue
        try:
            found = compare_studies(best, other)
        except AssistantBuilderError as error:
            row |= {"state": "failed", "error": error.to_record()}
            continue
        rows += [
            {
                "study": row["name"],
                "cell": verdict["cell"],
                **{key: verdict[key] for key in _KEPT},
                "ci_low": verdict["ci"][0],
                "ci_high": verdict["ci"][1],
            }
            for verdict in found["verdicts"]
            if verdict["cell"] in cells
        ]
    return judged(rows)


def judged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of a sweep with p-values adjusted over all of them (Holm), and the outcome of each."""
    adjusted = holm([row["p_value"] for row in rows])
    return [
        {**row, "p_value_holm": float(value), "outcome": outcome(row, float(value))}
        for row, value in zip(rows, adjusted, strict=True)
    ]


def outcome(row: Mapping[str, Any], p_value_holm: float) -> str:
    """``worse`` or ``better`` if both the adjusted test and the interval show a difference, else ``not told apart``.

    ``delta`` of the row is the other study's figure minus the selected one's.
    """
    if p_value_holm > SIGNIFICANT or row["ci_low"] <= 0 <= row["ci_high"]:
        return "not told apart"
    return "better" if (row["delta"] > 0) == row["higher_is_better"] else "worse"
