"""The registry of metrics, and a metric that a module outside the product registers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder import registry
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from assistant_builder.ui.evaluate.item_filters import study_items
from assistant_builder.ui.evaluate.view import results_frame
from assistant_builder.ui.settings_form import study_options
from evals.declaration import HeldOut, declare
from evals.metrics import METRICS, Metric, metric_of, score_answer, score_answers
from evals.report.build import write_report
from evals.report.charts import interval_panels
from tests.commands import python, with_plugin
from tests.synthetic_study import evaluated, finished_study, new_study, trained, with_data
from tests.typed_report import as_report

NAME, LABEL = "starts_with_capital", "Capitalised"
PLUGIN = f'''
from evals.declaration import HeldOut, declare
from evals.metrics import METRICS, Metric

def capitalised(answer, reference, context):
    assert context.question and reference
    return None if not context.answerable else float(answer[:1].isupper())

METRICS.register(Metric(
    "{NAME}", "{LABEL}", "Share of answers that start with a capital letter.", "Blind to everything else.",
    capitalised, data="binary", format="percent", unit="share of items", phrase="share of capitalised answers",
    default_margin=0.25,
))
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The metric's module, named in the environment and on the import path of this process and of its children."""
    for name, value in with_plugin(tmp_path / "plugins", "capital_metric", PLUGIN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    yield
    sys.modules.pop("capital_metric", None)


def items() -> list[dict[str, Any]]:
    return [
        {
            "item": str(row),
            "row": row,
            "turn": 0,
            "cluster": None,
            "answerable": row != 3,
            "question": "What is it?",
            "messages": [{"role": "user", "content": "What is it?"}],
            "reference": "Nine crowns.",
            "tokens": 3,
        }
        for row in (1, 2, 3)
    ]


# the registry


def test_every_metric_is_described_and_has_one_way_to_be_computed():
    assert (
        list(METRICS)
        == """
        nll_per_token exact_match token_f1 rouge_l chrf facts_kept similarity false_decline
        right_decline
    """.split()
    )
    assert all(
        metric.explanation and metric.blind_spots and metric.unit for metric in METRICS.values()
    )
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == [
        "nll_per_token",
        "false_decline",
    ]
    assert [name for name, metric in METRICS.items() if metric.token_weighted] == ["nll_per_token"]
    functions = [
        (metric.score, metric.score_batch, metric.score_sample) for metric in METRICS.values()
    ]
    assert [sum(function is not None for function in each) for each in functions] == [0] + [1] * 8
    assert [name for name, metric in METRICS.items() if metric.score_batch is not None] == [
        "similarity"
    ]


@pytest.mark.parametrize(
    ("data", "value", "allowed"),
    [
        ("real", 1.5, "a number from 0 to 1"),
        ("real", float("nan"), "a number from 0 to 1"),
        ("binary", 0.5, "0 or 1"),
    ],
)
def test_score_that_the_description_does_not_allow_is_refused(data, value, allowed, monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    METRICS.register(
        Metric("odd", "Odd", "Odd.", score=lambda answer, reference, context: value, data=data)
    )
    with pytest.raises(EvaluationError, match=f"metric 'odd' returned .* which is not {allowed}"):
        score_answer("Nine.", "Nine.")


def test_metrics_that_need_a_model_score_all_answers_at_once():
    import numpy as np

    class Embedder:
        asked: list[tuple[int, bool]] = []

        def embed(self, texts: Any, *, keep: bool = False) -> Any:
            self.asked.append((len(texts), keep))
            return np.array([[1.0, 0.0] if text == "same" else [0.0, 1.0] for text in texts])

    resources = Embedder()
    assert score_answers(["same", "other"], ["same", "same"], resources) == [
        {"similarity": 1.0},
        {"similarity": 0.0},
    ]
    assert resources.asked == [(2, False), (2, True)]
    assert score_answers(["same"], ["same"], resources, embedder=False) == [{}]


def test_report_of_a_metric_whose_plugin_is_not_loaded_can_be_displayed():
    row = {
        "name": "Q4-L16",
        "metric": NAME,
        "delta": 0.5,
        "ci_low": 0.25,
        "ci_high": 0.75,
        "higher_is_better": True,
    }
    (panel,) = interval_panels([row], NAME, 0.1)
    assert panel["rows"][0]["label"] == NAME
    assert metric_of(NAME).bounds is None


# a metric of a plugin


def test_plugin_metric_is_a_primary_metric_and_brings_its_margin(plugin):
    config = StudyConfig().with_changes({"eval.primary_metric": NAME})
    declared = declare(config, HeldOut({}, frozenset()), [])
    assert declared.primary_metric == NAME
    assert declared.margin == 0.25
    assert declared.second_metric == "nll_per_token"
    chosen = config.with_changes({"eval.margin": 0.1})
    assert declare(chosen, HeldOut({}, frozenset()), []).margin == 0.1
    assert study_options()["eval.primary_metric"].choices[-1] == NAME
    assert study_options()["eval.primary_metric"].kind == "choice"


def test_plugin_metric_of_stored_answers_reaches_report_page_and_command_line(plugin):
    study = evaluated(
        trained(with_data(new_study("capital", eval__primary_metric=NAME, eval__margin=None)))
    )
    stored = read_jsonl(study.cell_folder("Q4") / "samples.jsonl")
    assert not any(NAME in sample["metrics"] for sample in stored)
    python("-m", "evals", "report", "--study", study.folder)
    report = read_json(study.folder / "report.json")
    answerable = [sample for sample in stored if sample["answerable"]]
    share = sum(sample["answer"][0].isupper() for sample in answerable) / len(answerable)
    assert report["cells"]["Q4"]["metrics"][NAME] == pytest.approx(share)
    assert report["primary_metric"] == NAME
    assert report["verdict"]["metric"] == NAME
    assert report["verdict"]["margin"] == 0.25
    rows = [row for row in report["contrasts"] if row["metric"] == NAME]
    assert {"Q4-L16", "Q4-B4"} <= {row["name"] for row in rows}
    for file in ("report.md", "report.html"):
        text = (study.folder / file).read_text()
        assert (
            text.count(LABEL) > 3 and "Share of answers that start with a capital letter." in text
        ), file
        assert "share of capitalised answers" in text, file

    # the page
    assert LABEL in results_frame(as_report(report))
    found = study_items(study)
    assert found is not None and NAME in found.metrics

    # the command line
    shown = CliRunner().invoke(app, ["report", "capital", "--format", "json"])
    assert (
        json.loads(shown.stdout)["cells"]["Q4"]["metrics"][NAME]
        == report["cells"]["Q4"]["metrics"][NAME]
    )
    finished_study("other")
    compared = CliRunner().invoke(app, ["compare", "capital", "other"])
    assert LABEL in compared.stdout, compared.output


def test_built_in_metrics_of_stored_answers_are_not_computed_again(plugin):
    study = finished_study()
    before = read_json(study.folder / "report.json")["cells"]["Q4"]["metrics"]
    write_report(Study.open(study.name))
    assert read_json(study.folder / "report.json")["cells"]["Q4"]["metrics"] == before
    stored = read_jsonl(study.cell_folder("Q4") / "samples.jsonl")
    assert before["token_f1"] == pytest.approx(
        sum(sample["metrics"]["token_f1"] for sample in stored) / len(stored)
    )
    assert NAME in before
