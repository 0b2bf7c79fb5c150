"""What was measured beside the cells, on the page and in the Markdown: every number, and what is said without them."""

import html
import re
from collections.abc import Callable
from typing import Any

import pytest

from assistant_builder.i18n import t
from evals.report.build import build_report
from evals.report.glossary import not_measured
from evals.report.method import CONTENTS
from evals.report.number_format import difference, interval
from evals.report.render import render_html, render_markdown
from evals.report.verdict import meaning
from tests.evals.report.additions import with_additions
from tests.evals.report.synthetic_study import Recipe, write_study
from tests.evals.report.test_render import Page
from tests.texts import parts
from tests.typed_report import as_report

Report = dict[str, Any]
Render = Callable[[Report], str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report on four cells with nothing measured beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path_factory.mktemp("home")))
        return build_report(write_study(Recipe(flips=0.1)))


@pytest.fixture
def rich(plain: Report) -> Report:
    return with_additions(plain)


def shown(render: Render, report: Report) -> str:
    """The text that a reader sees, white space collapsed and Markdown's escapes undone."""
    text = render(as_report(report))
    if render is render_html:
        text = "".join(Page(text).text)
    else:
        text = html.unescape(re.sub(r"\\([\\`*_\[\]|~$#@:.])", r"\1", text)).replace("**", "")
    return " ".join(text.split())


both = pytest.mark.parametrize("render", [render_html, render_markdown])


@both
def test_the_bounds_of_the_verdict(render, rich):
    rich["verdict"] |= {
        "seeds": 3,
        "possible_harm": ["chrf"],
        "bounds": [
            {
                "metric": "nll_per_token",
                "margin": 0.03,
                "delta": 0.02,
                "ci": [0.01, 0.028],
                "passed": True,
                "higher_is_better": False,
                "n": 200,
            },
            {
                "metric": "exact_match",
                "margin": 0.05,
                "delta": -0.09,
                "ci": [-0.12, -0.061],
                "passed": False,
                "higher_is_better": True,
                "n": 200,
            },
            {
                "metric": "false_decline",
                "margin": 0.05,
                "delta": 0.01,
                "ci": [-0.02, 0.07],
                "passed": False,
                "higher_is_better": False,
                "n": 200,
            },
        ],
    }
    rich["objection"] = ""
    text = shown(render, rich)
    for said in (
        "averaged over 3 training seeds",
        "+0.020",
        "+0.010 to +0.028",
        "0.03",
        "−9.0",
        "−12.0 to −6.1",
        "not shown: beyond the margin",
        "−2.0 to +7.0",
        *rich["basis"],
    ):
        assert said in text
    assert text.count("not shown") == 2


@both
def test_questions_about_facts_that_were_not_taught(render, rich):
    assert "facts that were not taught" not in shown(render, rich)
    rich["uncovered"] = {
        "items": 1,
        "cells": {"L16": {"exact_match": 0.333, "nll_per_token": 1.2345}, "Q4": {}},
    }
    text = shown(render, rich)
    for said in (
        "1 held-out question asks about facts that do not occur in training. The verdict leaves it out.",
        "33.3%",
        "1.234",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            "no worse",
            "the harm on new facts of the same kind is at most 0.028 nats per token (Loss) and 0.0 points",
        ),
        (
            "worse",
            "do worse on new facts of the same kind: by 0.010 to 0.028 nats per token (Loss).",
        ),
        ("inconclusive", "neither that 4-bit is as good nor that it is worse."),
    ],
)
def test_what_the_verdict_means(outcome, said):
    bounds = [
        {
            "metric": "nll_per_token",
            "margin": 0.03,
            "delta": 0.02,
            "ci": [0.01, 0.028],
            "higher_is_better": False,
        },
        {
            "metric": "exact_match",
            "margin": 0.05,
            "delta": 0.09,
            "ci": [0.061, 0.12],
            "higher_is_better": True,
        },
    ]
    assert said in meaning({"outcome": outcome, "estimand": "facts", "bounds": bounds})
    assert meaning({"outcome": outcome}) == ""


@both
def test_flips_are_listed_with_the_noise_floor(render, rich):
    text = shown(render, rich)
    for said in parts(
        """
        Full (LoRA, 16-bit) against itself | L16, scored with batch sizes 32 and 7 | 0.0081 | 0.0123
        Another batch size alone changes 5 of 208 answers.
        """
    ):
        assert said in text
    assert (
        text.index("QLoRA against LoRA")
        < text.index("Full (LoRA, 16-bit) against itself")
        < text.index("Fidelity:")
    )
    lost = rich["flips"]["lost"][0]
    assert text.index(lost["question"]) < text.index("Fidelity:")


@both
def test_every_contrast_is_shown_with_its_figures(render, rich):
    text = shown(render, rich)
    for row in rich["contrasts"]:
        assert f"{row['candidate']} − {row['baseline']}" in text
        factor, said = (
            1 if row["metric"] == "nll_per_token" else 100,
            difference(row["delta"], row["metric"], row),
        )
        assert said in text and interval(row, row["metric"]) in text
        places = len(said.partition(".")[2])
        assert float(said.replace("−", "-")) == pytest.approx(
            row["delta"] * factor, abs=0.51 * 10**-places
        )
    for cell in rich["cells"].values():
        assert f"{cell['nll_per_token']:.3f}" in text and cell["about"] in text


@both
def test_three_questions_group_the_sections(render, rich):
    text = render(as_report(rich))
    marks = [
        f'<h2 id="{group["anchor"]}">' if render is render_html else f"\n## {t(group['title'])}\n"
        for group in CONTENTS
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    inside = text[places[0] : places[1]]
    assert "Fidelity" in inside and "Noise floor:" not in inside


@both
@pytest.mark.parametrize(
    ("key", "empty", "said"),
    [
        ("fidelity", None, "fidelity"),
        ("tasks", {}, "retention"),
        ("judge", None, "judge"),
        ("attribution", None, "steps"),
        ("exports", [], "exports"),
        ("flips", None, "flips"),
        ("declining", None, "declining"),
        ("power", [], "power"),
    ],
)
def test_what_was_not_measured_is_said(render, rich, key, empty, said):
    rich[key] = empty
    assert not_measured()[said] in shown(render, rich)


@both
def test_a_report_of_cells_alone_says_what_is_missing(render, plain):
    text = shown(render, plain)
    for key, said in not_measured().items():
        assert (said in text) == (key not in ("flips", "declining", "power", "seeds")), key
