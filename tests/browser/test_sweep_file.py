"""The page of a sweep as a file in a browser: the chart is drawn under its content policy, and nothing is asked."""

import pytest
from playwright.sync_api import expect

from assistant_builder.sweep import open_sweep, run_sweep
from tests.sweep.simulated_runs import Scenario, pretend
from tests.synthetic_study import SMALL

pytestmark = pytest.mark.browser


def test_the_chart_is_drawn_from_the_file_alone(page, monkeypatch):
    pretend(Scenario(validation={2: 0.8}, failing={3}), monkeypatch)
    settings = ["train.rank=4,8,16", "data.heldout_fraction=0.5", "eval.bootstrap_resamples=400"]
    sweep = open_sweep(str(SMALL), name="drawn", settings=settings, prune="off")
    record = run_sweep(sweep)
    page.set_content((sweep.folder / "sweep.html").read_text(encoding="utf-8"), timeout=120_000)
    expect(page.locator("#studies")).to_contain_text("train.rank")
    expect(page.locator("#differences .interval-row .lane svg").first).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text(record["sentence"])
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, (
        "wide parts scroll inside their own boxes"
    )
