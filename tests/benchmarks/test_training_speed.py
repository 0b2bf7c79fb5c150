"""Logic of the training benchmark without training: order of runs, medians, table, command line."""

import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from rich.console import Console

from assistant_builder.atomic_io import read_json
from assistant_builder.child_process import compute_environment
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.planning.hardware import Machine
from benchmarks import candidates as candidates_module
from benchmarks import llama_factory
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


def test_spread_is_the_median_and_the_extremes():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_ratios_are_taken_round_by_round():
    row = next(row for row in summarize(runs()) if row.candidate == Candidate("ours", "lora"))
    assert row.tokens_per_second == Spread(100.0, 100.0, 200.0)
    assert row.versus_plain == Spread(2.0, 2.0, 2.0)
    assert row.versus_tuned == Spread(1.25, 1.25, 1.25)
    assert (row.first_loss.median, row.last_loss.median) == (3.5, 2.75)
    assert row.validation_loss.median == 2.53
    assert row.peak_memory_bytes == 1_500_000_005 and row.rounds == 5
    assert arms_ratio(runs()) == Spread(1.0, 1.0, 1.0)


def test_missing_candidates_are_not_compared():
    alone = [record for record in runs(1) if record["candidate"] == "ours-qlora"]
    (row,) = summarize(alone)
    assert row.versus_plain is None and row.versus_tuned is None and arms_ratio(alone) is None


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


def test_command_line_reads_candidates_and_settings():
    options = command.parse(
        ["--candidates", "ours-qlora, plain-lora", "--set", "train.rank=8", "--set", "a=b=c"]
    )
    assert [candidate.name for candidate in options.candidates] == ["plain-lora", "ours-qlora"]
    assert options.changes == {"train.rank": "8", "a": "b=c"}


def test_llama_factory_runs_if_its_python_is_given(monkeypatch, job, tmp_path):
    assert not any(candidate.family == "factory" for candidate in command.parse([]).candidates)
    monkeypatch.setattr(command, "this_machine", lambda: Machine("it", "cuda", 10**9, 10**9))
    on_gpu = command.parse(["--llama-factory", sys.executable, "--candidates", "ours-lora"])
    assert [candidate.name for candidate in on_gpu.candidates] == [
        "ours-lora",
        "factory-lora",
        "factory-qlora",
    ]
    monkeypatch.setattr(command, "this_machine", lambda: Machine("it", "cpu", 10**9, 10**9))
    on_cpu = command.parse(["--llama-factory", sys.executable])
    assert [candidate.name for candidate in on_cpu.candidates[6:]] == ["factory-lora"]

    job.write(tmp_path / "job.json")
    record = read_json(tmp_path / "job.json")
    told = {arm: llama_factory.settings(record, arm, tmp_path, "cpu") for arm in ("lora", "qlora")}
    assert told["qlora"].items() > told["lora"].items()
    assert told["qlora"]["quantization_type"] == "nf4"
    size = told["lora"]["per_device_train_batch_size"] * told["lora"]["gradient_accumulation_steps"]
    assert (size, told["lora"]["lora_rank"]) == (job.train.batch_size, job.train.rank)
    third = Candidate("factory", "lora")
    records = [*runs(), *(run(third, number) for number in range(1, 6))]
    rows = summarize(records)
    assert [row.candidate.name for row in rows][
        :4
    ] == "plain-lora tuned-lora ours-lora factory-lora".split()
    assert rows[3].versus_plain is not None and rows[3].versus_plain.median == 0.8


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "0"],
        ["--candidates", "theirs"],
        ["--set", "rank"],
        ["--steps", "x"],
        ["--llama-factory", "/nowhere"],
    ],
)
def test_invalid_arguments_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.parse(words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_code_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["bench", "--set", "train.rnak=8", "--out", str(tmp_path / "out")]
    )
    assert command.main() == 1
    assert capsys.readouterr().err.startswith("bench: train.rnak")
    assert not (tmp_path / "out").exists()


def test_candidates_run_in_the_environment_of_the_products_steps(monkeypatch, tmp_path):
    started: list[dict[str, Any]] = []

    def start(words: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        started.append(options["env"])
        Path(words[-1]).write_text("{}", encoding="utf-8")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(candidates_module.subprocess, "run", start)
    for candidate in CPU_CANDIDATES:
        command._run(tmp_path / "job.json", candidate, 1)
    assert started == [compute_environment()] * len(CPU_CANDIDATES)


def test_a_failed_run_names_the_candidate_and_shows_its_last_words(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EvaluationError, match="plain-lora ended with code 1"):
        command._run(tmp_path / "job.json", CPU_CANDIDATES[0], 1)


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


def test_every_case_is_measured_and_written_unless_others_are_wanted(
    bundled_models, monkeypatch, tmp_path
):
    trained = []

    def run_all(job: Job, *_: Any) -> list[dict[str, Any]]:
        trained.append((job.train.batch_size, "Q: " in job.pairs[0].messages[0].content))
        return runs(1)

    monkeypatch.setattr(command, "run_all", run_all)
    console = Console(file=StringIO(), width=200)
    command.bench(command.parse(["--out", str(tmp_path)]), console)
    assert trained == [(16, False), (8, True), (16, True)]
    names = ("bench.json", "bench-facts-8.json", "bench-facts-16.json")
    assert [read_json(tmp_path / name)["train"]["batch_size"] for name in names] == [16, 8, 16]
    assert command.parse(["--quick"]).cases == ["pairs"]
    assert command.parse(["--quick", "--cases", "facts-8"]).cases == ["facts-8"]


def test_too_few_pairs_are_refused_with_a_remedy(bundled_models):
    config = StudyConfig().with_changes({"data.source": str(FERRIES)})
    with pytest.raises(AssistantBuilderError, match="--steps"):
        make_job(config, warmup_steps=1, timed_steps=500, validation_pairs=8)


def test_results_are_written_atomically(job, tmp_path):
    records = runs(2)
    command.write(tmp_path / "new" / "out", job, records, summarize(records))
    record = read_json(tmp_path / "new" / "out" / "bench.json")
    assert len(record["runs"]) == 12 and len(record["summary"]) == 6
    assert record["summary"][2]["candidate"] == "ours-lora"
    assert record["summary"][2]["versus_plain"]["median"] == 2.0
    assert record["machine"]["packages"]["trl"]
    assert record["train"]["rank"] == 16
    assert record["differences"]
