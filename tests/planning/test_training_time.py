"""Time estimates from the first steps of synthetic runs whose duration is known."""

import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from assistant_builder.atomic_io import append_jsonl, read_jsonl, write_json
from assistant_builder.planning.memory_check import measured_seconds
from assistant_builder.planning.training_time import (
    PaceEstimator,
    WorkRemaining,
    extrapolated_seconds,
)
from assistant_builder.training.progress import MetricsLog
from benchmarks.eta_accuracy import estimated_seconds, runs_of, table
from tests.synthetic_study import new_study

PER_TOKEN, START, VALIDATION, SAVING, SAMPLES = 0.004, 3.0, 4.0, 0.5, 2.0


def run_of(
    lengths: list[int], *, validate_every: int = 10, start: float = START
) -> Iterator[dict[str, Any]]:
    """A run that trains 0.004 s a token, warms up in its first step, and validates, answers and saves now and then."""
    busy = elapsed = tokens = 0.0
    for step, length in enumerate(lengths, 1):
        own = length * PER_TOKEN + (start if step == 1 else 0)
        busy, elapsed, tokens = busy + own, elapsed + own, tokens + length
        yield {
            "event": "step",
            "step": step,
            "busy_seconds": busy,
            "elapsed_seconds": elapsed,
            "tokens": int(tokens),
        }
        if step % validate_every == 0:
            elapsed += VALIDATION
            yield {"event": "validation", "step": step, "elapsed_seconds": elapsed}
            for _ in range(2):
                elapsed += SAMPLES / 2
                yield {"event": "sample", "step": step, "elapsed_seconds": elapsed}
            elapsed += SAVING


def ahead_of(lengths: list[int], **more: int) -> WorkRemaining:
    validations = len(lengths) // 10
    return WorkRemaining(len(lengths), sum(lengths), validations, 2000, validations, 20, **more)


def taken(lengths: list[int]) -> float:
    return START + PER_TOKEN * sum(lengths) + (VALIDATION + SAVING + SAMPLES) * (len(lengths) // 10)


def test_no_estimate_before_the_fifth_step():
    lengths = [500] * 40
    events = list(run_of(lengths))
    assert extrapolated_seconds(events[:4], ahead_of(lengths)) is None
    assert extrapolated_seconds([], ahead_of(lengths)) is None
    assert extrapolated_seconds(events[:5], ahead_of(lengths)) == pytest.approx(
        taken(lengths), rel=0.25
    )


def test_batches_of_different_lengths_do_not_bias_the_estimate():
    # the first pool happens to be short
    lengths = [100] * 5 + random.Random(0).choices(range(200, 1200), k=45)
    events = list(run_of(lengths))
    assert extrapolated_seconds(events[:5], ahead_of(lengths)) == pytest.approx(
        taken(lengths), rel=0.1
    )


def test_measured_times_replace_assumed_ones():
    lengths = [500] * 40
    events, ahead = list(run_of(lengths)), ahead_of(lengths)
    after_one_validation = [event for event in events if event["step"] <= 11]
    assert extrapolated_seconds(after_one_validation, ahead) == pytest.approx(
        taken(lengths), rel=0.001
    )
    ended = extrapolated_seconds(events, ahead)
    assert ended == pytest.approx(taken(lengths) - SAVING)  # the last checkpoint is not on record


def test_remaining_time_decreases_to_the_final_validation():
    lengths = [500] * 40
    pace, left = PaceEstimator(ahead_of(lengths)), []
    for event in run_of(lengths):
        pace.add(event)
        if event["event"] == "step" and event["step"] > 10:  # a validation has been measured
            left.append(pace.remaining_seconds())
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(VALIDATION + SAMPLES, rel=0.1)


def test_metrics_log_estimates_the_remaining_time(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", step=0, work=WorkRemaining(100, 100_000))
    for step in range(1, 5):  # slower ones, from which nothing is extrapolated
        assert log.record_step(step, tokens=200, seconds=2.0, values={"loss": 0.5}) is None
    assert not any("eta_seconds" in event for event in read_jsonl(tmp_path / "metrics.jsonl"))
    left = log.record_step(5, tokens=200, seconds=2.0, values={"loss": 0.5})
    # 0.01 s a token, though the clock has hardly moved
    assert left == pytest.approx(0.01 * 99_000, rel=0.01)
    again = MetricsLog(tmp_path / "metrics.jsonl", step=5, work=WorkRemaining(100, 100_000))
    assert again.record_step(6, tokens=1000, seconds=10.0, values={"loss": 0.5}) == pytest.approx(
        0.01 * 98_000, rel=0.01
    )


def test_estimate_from_files_during_a_run_and_accuracy_after_it():
    study = new_study()
    lengths, folder = [500] * 40, study.arm_folder("lora")
    events = list(run_of(lengths))
    assert measured_seconds(folder) is None and list(runs_of(study, "a run")) == []
    write_json(folder / "plan.json", {"predicted": {}, "ahead": asdict(ahead_of(lengths))})
    for event in events[:7]:
        append_jsonl(folder / "metrics.jsonl", event)
    assert measured_seconds(folder) == pytest.approx(taken(lengths), rel=0.25)
    assert list(runs_of(study, "a run")) == []  # not finished
    write_json(folder / "summary.json", {"train_seconds": taken(lengths)})
    assert measured_seconds(folder) == taken(lengths), "it may have ended early"
    (run,) = runs_of(study, "a run")
    assert estimated_seconds(run) == extrapolated_seconds(events[:5], ahead_of(lengths))
    assert "| a run | lora | 40 | 20,000 | 4 |" in table([run]) and "of 1 runs" in table([run])
