"""The HTML of the page: its contents, and the escaping of text from files."""

import re
from dataclasses import replace

import pytest

from assistant_builder.data import RejectedRow
from assistant_builder.planning.training_time import WorkRemaining
from assistant_builder.study import Study
from assistant_builder.training.progress import MetricsLog
from assistant_builder.ui.data.view import (
    rejected_view,
    unreadable_view,
)
from assistant_builder.ui.html import callout, error_callout, table, toast
from assistant_builder.ui.report.tab import report_frame
from assistant_builder.ui.study_snapshot import (
    report_conclusion,
    samples_stamp,
    stamp,
    state_of,
    study_report,
    study_stamp,
    study_strip,
    take_snapshot,
)
from assistant_builder.ui.train.view import (
    run_panel,
    samples_card,
)
from tests.synthetic_study import finished_study, new_study, running, with_data, with_metrics
from tests.texts import plain

HOSTILE = '<img src="http://evil.invalid/a.png"><script>alert(1)</script>" onload="x'


# hostile text


@pytest.mark.parametrize(
    "markup",
    [
        callout("bad", HOSTILE, HOSTILE, HOSTILE),
        error_callout({"what": HOSTILE, "where": HOSTILE, "remedy": HOSTILE}),
        table([HOSTILE], [[HOSTILE]]),
        toast(HOSTILE, HOSTILE),
        rejected_view([RejectedRow(1, HOSTILE, {HOSTILE: HOSTILE})], 1),
        unreadable_view({"what": HOSTILE}, [HOSTILE]),
        report_frame(HOSTILE),
    ],
)
def test_text_from_files_is_escaped(markup):
    assert "<img" not in markup and "<script" not in markup
    assert '" onload=' not in markup


def test_a_report_cannot_run_scripts():
    assert re.search(r'sandbox="([^"]*)"', report_frame("<p>")).group(1).split() == ["allow-popups"]


# the study


def test_the_strip_of_a_finished_study_leads_on_and_that_of_a_new_one_is_one_line():
    done, new = (
        study_strip(take_snapshot(study)) for study in (finished_study("done"), new_study("new"))
    )
    conclusion = report_conclusion(study_report(Study.open("done")) or {})
    assert conclusion is not None
    for ready, words in ((True, ("done", "Ready:")), (False, ("Not good enough yet", "Next:"))):
        shown = plain(
            study_strip(take_snapshot(Study.open("done")), replace(conclusion, ready=ready))
        )
        assert all(word in shown for word in words), shown
    assert "Ready:" in done
    assert all(f'data-tab="{tab}"' in done for tab in ("evaluate", "chat", "export"))
    assert "ab-steps" not in done and "ab-steps" not in new and "Ready:" not in new
    assert re.findall('data-tab="([a-z]+)"', new) == ["train", "chat", "export"], (
        "what to press is in view, also above a long preview"
    )


def test_a_waiting_study_names_the_studies_ahead():
    study = new_study()
    study.write_run_record("queued", queued_behind=["rivers", HOSTILE])
    seen = take_snapshot(study)
    assert (seen.state, seen.shown_state, seen.busy, seen.running) == (
        "queued",
        "waiting",
        True,
        False,
    )
    said = run_panel(seen, "")
    assert "number 2 in the queue" in said and "Project rivers is running. Then &lt;img" in said
    assert "waiting" in plain(study_strip(seen)) and state_of(study) == "waiting"
    left = replace(take_snapshot(new_study("left")), state="cancelled")
    assert "Removed from the queue" in run_panel(left, "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "http://10.0.0.1:8265",
            '<a href="http://10.0.0.1:8265" target="_blank" rel="noopener noreferrer">',
        ),
        (f"https://{HOSTILE}", '<a href="https://&lt;img src=&#34;http'),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_a_study_on_a_cluster_links_its_dashboard(url, shown):
    study = with_metrics(with_data(new_study()), "lora", 30)
    running(study, "train-lora")
    study.write_run_record("running", dashboard=url)
    said = run_panel(take_snapshot(study), "")
    assert shown in said and ("<a " in said) == bool(shown) and "<img" not in said


def test_a_training_that_ends_early_says_so():
    study = with_metrics(with_data(new_study()), "lora", 30)
    running(study, "train-lora")
    seen = take_snapshot(study)
    before = plain(run_panel(seen, ""))
    training = seen.arms["lora"]
    last = {**training.points[-1], "steps": 41}
    arms = {**seen.arms, "lora": replace(training, points=[*training.points, last])}
    ends = plain(run_panel(replace(seen, arms=arms), ""))
    planned = training.points[0]["steps"]
    assert f"of 41, instead of {planned}: little is left to learn" in ends
    assert planned > 41 and "instead of" not in before


# sample answers


def test_sample_answers_of_the_arms_are_shown_side_by_side():
    study = with_data(new_study())
    for arm, steps in (("lora", (15, 30)), ("qlora", (15,))):
        study.arm_folder(arm).mkdir(parents=True)
        log = MetricsLog(
            study.arm_folder(arm) / "metrics.jsonl", step=0, work=WorkRemaining(60, 6000)
        )
        for step in steps:
            log.record_samples(
                step,
                [
                    {
                        "row": row,
                        "question": f"q{row} {HOSTILE}",
                        "reference": "ref",
                        "answer": f"{arm} {step} {row}",
                    }
                    for row in (3, 9)
                ],
            )
    before = samples_stamp(study)
    said = samples_card(take_snapshot(study).arms)
    assert "<img" not in said and said.count("<details") == 2 and said.count(" open>") == 1
    first = plain(said).split("q9")[0]
    assert (
        first.index("Reference ref") < first.index("After step 30") < first.index("After step 15")
    )
    assert (
        "Compact (QLoRA, 4-bit) not trained to this step yet Full (LoRA, 16-bit) lora 30 3" in first
    )
    assert "Compact (QLoRA, 4-bit) qlora 15 3 Full (LoRA, 16-bit) lora 15 3" in first
    with_metrics(study, "lora", 1)
    assert samples_stamp(study) == before  # steps alone leave what the reader has opened as it is
    assert samples_card(take_snapshot(new_study("none")).arms) == ""


# figures and marks


def test_the_version_changes_only_with_the_files():
    study = with_data(new_study())
    before = study_stamp(study)
    assert study_stamp(study) == before
    with_metrics(study, "lora", 1)
    assert study_stamp(study) != before
    assert stamp([study.folder / "nothing"]) == "-"
