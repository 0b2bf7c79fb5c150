"""The report of a study that trains one arm: what is shown, what is not compared, and that nothing is empty."""

import json
import re
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.export_formats import advice
from assistant_builder.study import Study
from evals.report import contrasts
from evals.report.build import build_report
from evals.report.render import render_html, render_markdown
from tests.synthetic_study import LARGE, SMALL, evaluated, new_study, reported, trained, with_data
from tests.typed_report import as_report

COMPARING = ("flips", "fidelity", "judge", "votes", "power", "noise", "steps", "twins")
"""Sections of the page that need both assistants."""


def finished(source: Any = LARGE, **changes: Any) -> Study:
    study = new_study("alone", source, eval__bootstrap_resamples=1000, **changes)
    return reported(evaluated(trained(with_data(study))))


def rows_of(html: str) -> list[str]:
    return re.findall(r"<tbody>(.*?)</tbody>", html, re.S)


@pytest.mark.parametrize(
    ("arm", "cells", "lead"), [("qlora", {"B4", "Q4"}, "Q4-B4"), ("lora", None, "L16-B16")]
)
def test_what_can_be_shown_is_shown_and_the_verdict_is_inconclusive(arm, cells, lead):
    report = read_json(finished(arms=[arm]).folder / "report.json")
    assert report["config"]["arms"] == [arm]
    assert cells is None or set(report["cells"]) == cells
    verdict = report["verdict"]
    assert verdict["outcome"] == "inconclusive"
    assert verdict["delta"] is None
    assert verdict["ci"] == [None, None]
    assert verdict["contrast"] is None
    assert "alone" in verdict["reason"] and "--set arms=lora,qlora" in verdict["action"]
    assert report["sentence"] == f"{verdict['reason']} {verdict['action']}"
    rows = {row["metric"]: row for row in report["contrasts"] if row["name"] == lead}
    assert rows["nll_per_token"]["ci_high"] < 0 < rows["exact_match"]["ci_low"]
    assert not any(row["name"] == "Q4-L16" for row in report["contrasts"])
    assert set(report["resources"]) == set(report["curves"]) == {arm}
    assert report["tasks"]["ab_retention"]["contrasts"]
    assert report["baselines"].keys() == {"copy", "retrieval"}
    assert (
        report["flips"]
        is report["fidelity"]
        is report["judge"]
        is report["twins"]
        is report["attribution"]
        is None
    )
    assert not any(entry["code"].startswith("twins") for entry in report["warnings"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": 3},
        {"eval__cells": ["Q4"]},
        {"eval__cells": ["Q4"], "eval__baselines": False},
        {"eval__baselines": False, "eval__retention": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("source", [SMALL, LARGE], ids=lambda path: path.parent.name)
def test_page_and_markdown_have_no_empty_table_and_nothing_of_the_other_arm(source, changes):
    report = read_json(finished(source, arms=["qlora"], **changes).folder / "report.json")
    html, markdown = render_html(as_report(report)), render_markdown(as_report(report))
    for section in COMPARING:
        assert f'id="{section}"' not in html and f'href="#{section}"' not in html
    assert all(body.strip() for body in rows_of(html))
    assert not re.search(r"\|\n(?:\| ?-+:? ?)+\|\n\n", markdown)  # a head without rows
    for text in (html, markdown):
        body = text.split("What it is")[0]
        assert "Not compared" in text
        assert "Full (LoRA, 16-bit)" not in text
        assert "What did 4-bit cost" not in text
        assert not re.search(r"\bNone\b(?! of )", body) and "nan" not in body.split()
    targets = set(re.findall(r'href="#([\w-]+)"', html))
    assert targets <= set(re.findall(r'id="([\w-]+)"', html))


def test_the_untuned_baseline_with_examples_runs_on_the_base_that_there_is():
    report = read_json(finished(arms=["qlora"]).folder / "report.json")
    assert "4-bit base" in report["baselines"]["retrieval"]["about"]
    both = read_json(
        reported(evaluated(trained(with_data(new_study("both"))))).folder / "report.json"
    )
    assert "float16 base" in both["baselines"]["retrieval"]["about"]


def test_the_report_of_both_arms_does_not_mention_the_choice():
    report = json.loads(json.dumps(build_report(evaluated(trained(with_data(new_study("both")))))))
    assert "arms" not in report["config"]
    assert "reason" not in report["verdict"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("here", "fits this machine"),
        ("H200 141 GB", "one with one H200 141 GB"),
        ("", "executor.spread=fsdp"),
    ],
)
def test_the_action_names_a_machine_for_the_twin(place, words, monkeypatch):
    monkeypatch.setattr(contrasts, "where_both_fit", lambda study: place)
    study = evaluated(trained(with_data(new_study("alone", arms=["qlora"]))))
    action = build_report(study)["verdict"]["action"]
    assert words in action
    assert "QLoRA as it is trained here is kept" in action
    assert "--redo" not in action


def test_several_seeds_show_the_spread_of_the_one_arm():
    report = read_json(finished(arms=["qlora"], seeds=3).folder / "report.json")
    seeds = report["seeds"]
    assert seeds["count"] == 3
    assert set(seeds["spread"]) == {"Q4"}
    assert "Over 3 training seeds" in seeds["sentence"]
    html = render_html(as_report(report))
    section = html.split('<section id="seeds">')[1].split("</section>")[0]
    assert "Over 3 training seeds" in section and "Q4&nbsp;" not in section


def test_the_one_assistant_is_the_one_to_take():
    report = read_json(finished(arms=["qlora"]).folder / "report.json")
    assert advice(report, ["qlora"]).adapter == advice(None, ["qlora"]).merged == "qlora"
    assert "Only Compact (QLoRA, 4-bit) is trained" in advice(report, ["qlora"]).why
