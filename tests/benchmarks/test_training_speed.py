"""Logic of the training benchmark without training: order of runs, medians, table, command line."""

from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

from assistant_builder.config import StudyConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.models.chat_template import ChatTokenizer
from benchmarks import training_speed as command
from benchmarks.candidates import CPU_CANDIDATES, Candidate, Spread, interleaved
from benchmarks.job import Job, make_job
from benchmarks.paths import FERRIES
from benchmarks.summary import arms_ratio, caveats, summarize

SPEEDS = {"plain": 50.0, "tuned": 80.0, "ours": 100.0, "factory": 40.0}


def run(candidate: Candidate, number: int, **changes: Any) -> dict[str, Any]:
    """The record of a run; the machine is twice as fast in every second round."""
    pace = 1.0 if number % 2 else 2.0
    return {
        "round": number,
        "candidate": candidate.name,
        "seed": number,
        "tokens_per_second": SPEEDS[candidate.family] * pace,
        "cpu_seconds_per_1000_tokens": 10.0 / pace,
        "step_seconds": [9.0, 8.0, 8.0],
        "step_losses": [3.5, 3.1, 2.75],
        "step_tokens": [800, 790, 810],
        "peak_memory_bytes": 1_500_000_000 + number,
        "validation_loss": 2.5 + number / 100,
        "others_share": 0.02,
        "device": "cpu",
        "device_name": "AVX512",
        "threads": 2,
        **changes,
    }


def runs(rounds: int = 5, **changes: Any) -> list[dict[str, Any]]:
    return [
        run(candidate, number, **changes)
        for number, candidate in interleaved(CPU_CANDIDATES, rounds)
    ]


def test_rounds_contain_each_candidate_once_and_alternate_the_order():
    order = interleaved(CPU_CANDIDATES, 3)
    by_round = [
        [candidate for number, candidate in order if number == wanted] for wanted in (1, 2, 3)
    ]
    assert by_round == [list(CPU_CANDIDATES), list(reversed(CPU_CANDIDATES)), list(CPU_CANDIDATES)]
    places: Counter[Candidate] = Counter()
    for at, (_, candidate) in enumerate(interleaved(CPU_CANDIDATES, 4)):
        places[candidate] += at
    assert len(set(places.values())) == 1, "nobody runs earlier than another on average"


def test_ratios_are_taken_round_by_round():
    row = next(row for row in summarize(runs()) if row.candidate == Candidate("ours", "lora"))
    assert row.tokens_per_second == Spread(100.0, 100.0, 200.0)
    assert row.versus_plain == Spread(2.0, 2.0, 2.0)
    assert row.versus_tuned == Spread(1.25, 1.25, 1.25)
    assert (row.first_loss.median, row.last_loss.median) == (3.5, 2.75)
    assert row.validation_loss.median == 2.53
    assert row.peak_memory_bytes == 1_500_000_005 and row.rounds == 5
    assert arms_ratio(runs()) == Spread(1.0, 1.0, 1.0)


def test_a_candidate_that_trains_on_less_text_is_refused():
    records = runs(1)
    records[-1]["step_tokens"] = [500, 500, 500]
    with pytest.raises(EvaluationError, match="different amounts of text"):
        summarize(records)


def test_caveats_name_a_busy_machine_few_rounds_and_a_worse_loss():
    calm = caveats(summarize(runs()))
    assert len(calm) == 2 and all("no worse" in line for line in calm)
    assert any(
        "Other processes used up to 40%" in line
        for line in caveats(summarize(runs(others_share=0.4)))
    )
    assert any("trial" in line for line in caveats(summarize(runs(2))))
    bought = [{**r, "validation_loss": 3.0} if r["candidate"] == "ours-lora" else r for r in runs()]
    worse = [line for line in caveats(summarize(bought)) if "not at equal results" in line]
    assert len(worse) == 1 and "16-bit" in worse[0] and "+0.470" in worse[0]


@pytest.fixture
def job(bundled_models: Path) -> Job:
    config = StudyConfig().with_changes({"data.source": str(FERRIES)})
    return make_job(config, warmup_steps=1, timed_steps=2, validation_pairs=8)


def test_a_job_has_as_many_distinct_pairs_as_its_steps_need(job, tmp_path):
    assert job.steps == 3
    assert len({pair.row for pair in job.pairs}) == 48
    assert len(job.validation) == 8
    assert not {pair.row for pair in job.pairs} & {pair.row for pair in job.validation}
    job.write(tmp_path / "job.json")
    read = Job.read(tmp_path / "job.json")
    assert read.model == job.model
    assert read.train == job.train
    assert read.folder == job.folder
    assert read.steps == job.steps
    assert [pair.messages for pair in read.pairs] == [pair.messages for pair in job.pairs]
    assert [pair.messages for pair in read.validation] == [pair.messages for pair in job.validation]
    assert job.with_seed(7).train.seed == 7 and job.with_seed(7).pairs == job.pairs


def test_the_demo_s_case_has_its_rows_and_batches(bundled_models):
    case = command.CASES["facts-8"]
    config = StudyConfig().with_changes({"data.source": str(FERRIES), **case.changes})
    counts = {"warmup_steps": 1, "timed_steps": 8, "validation_pairs": 8}
    job = make_job(config, **counts, facts=case.facts)
    demo = yaml.safe_load(FERRIES.with_name("study.yaml").read_text(encoding="utf-8"))
    assert job.train.batch_size == demo["train"]["batch_size"] == 8 and len(job.pairs) == 72
    lengths = [len(example.input_ids) for example in job.examples(ChatTokenizer.load(job.folder))]
    assert mean(lengths) == pytest.approx(85, abs=3)
    for pair in (*job.pairs, *job.validation):
        assert f"A: {pair.answer}" in pair.messages[0].content
    again = make_job(config, **counts, facts=case.facts)
    assert [pair.messages for pair in again.pairs] == [pair.messages for pair in job.pairs]
