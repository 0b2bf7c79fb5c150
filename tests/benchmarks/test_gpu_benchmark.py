"""Logic of the GPU benchmark on a CPU: arguments, rows, the random model, the table, and a run of a tiny shape."""

import json
import math
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import ConfigError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.planning.hardware import Machine
from benchmarks import gpu
from benchmarks.candidates import GPU_CANDIDATES
from benchmarks.gpu import summarize
from benchmarks.random_model import INDEX, SHAPES, shards_of, write_model
from benchmarks.unsloth_script import settings
from tests.commands import python
from tests.export.tiny import tiny_base

ROOT = Path(__file__).resolve().parents[2]
SPEEDS = {"ours": 90.0, "plain": 60.0, "tuned": 80.0, "unsloth": 120.0}


def run(name: str, number: int = 1, tokens: int = 128, **changes: Any) -> dict[str, Any]:
    """The record of a run; in every second round all candidates are twice as fast."""
    family = name.split("-")[0]
    return {
        "round": number,
        "tokens": tokens,
        "candidate": name,
        "tokens_per_second": SPEEDS[family] * (2 - number % 2),
        "peak_memory_bytes": 10**9 * number,
        "step_losses": [3.0, 2.5],
        "step_tokens": [9, 9],
        **changes,
    }


def test_a_missing_gpu_is_reported_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "this_machine", lambda: Machine("a processor", "cpu", 1, 1))
    assert gpu.main([]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "no CUDA device" in err and "--device cpu" in err


def test_benchmark_starts_as_file_and_as_module():
    for words in (["benchmarks/gpu.py"], ["-m", "benchmarks.gpu"]):
        assert "--shape" in python(*words, "--help", cwd=ROOT).stdout


def test_commands_of_the_documents_are_accepted(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    commands = re.findall(
        r"^python benchmarks/gpu\.py ([^#>\n]*)", (ROOT / "docs/gpu.md").read_text(), re.MULTILINE
    )
    assert {gpu.parse(words.split()).kernels for words in commands} == {"fused"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--candidates", "ours-lora,axolotl-lora"], "axolotl-lora: choose from"),
        (["--batch", "10", "--micro-batch", "4"], "not a multiple"),
        (["--tokens", "0"], "not 1 or more"),
        (["--unsloth", "/no/such/python"], "is not a program"),
        (["--shape", "9b"], "invalid choice"),
    ],
)
def test_invalid_arguments_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as refused:
        gpu.parse(words)
    assert refused.value.code == 2 and said in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--model", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err


def test_candidates_that_cannot_run_are_named(monkeypatch):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    here, said = gpu.available(gpu.parse([]))
    assert {candidate.family for candidate in here} == {"ours", "plain", "tuned"}
    assert len(said) == 2 and "Unsloth is not installed" in said[0] and "liger-kernel" in said[1]
    here, said = gpu.available(gpu.parse(["--unsloth", sys.executable]))
    assert len(here) == len(GPU_CANDIDATES) and not any("Unsloth" in line for line in said)
    _, said = gpu.available(gpu.parse(["--device", "cpu"]))
    assert "Unsloth does not run on a CPU" in said[0]


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [(None, "cuda", "0"), ("3,1", "cuda", "3"), (None, "cpu", ""), ("0,1", "cpu", "")],
)
def test_every_candidate_sees_one_card(monkeypatch, tmp_path, visible, device, seen):
    """Of several cards transformers makes DataParallel, with which TRL refuses to train."""
    environments: list[Any] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(
        gpu,
        "start_worker",
        lambda *_, environment: environments.append(environment) or (1, "failed"),
    )
    gpu._run(tmp_path / "job.json", GPU_CANDIDATES[0], 1, gpu.parse(["--device", device]))
    assert environments == [{"CUDA_VISIBLE_DEVICES": seen}]


def test_speeds_are_compared_round_by_round():
    runs = [run(name, number) for number in (1, 2, 3) for name in ("plain-qlora", "ours-qlora")]
    plain, ours = sorted(summarize(runs), key=lambda row: row.candidate.family == "ours")
    assert (ours.tokens_per_second.median, ours.tokens_per_second.high) == (90.0, 180.0)
    assert (ours.versus_plain.low, ours.versus_plain.high) == (1.5, 1.5)
    assert plain.versus_plain is None and ours.peak_memory_bytes == 3 * 10**9 and ours.rounds == 3


def test_shards_hold_every_tensor_once_and_no_more_than_allowed():
    shapes = {"a": (4, 8), "b": (8,), "c": (4, 8), "d": (100, 8), "e": (2,)}
    shards = list(shards_of(shapes, 100))
    assert [name for names in shards for name in names] == list(shapes)
    sizes = [sum(2 * math.prod(shapes[name]) for name in names) for names in shards]
    assert all(size <= 100 or len(names) == 1 for size, names in zip(sizes, shards, strict=True))
    assert all(one + two > 100 for one, two in pairwise(sizes)), "a shard was closed too early"


def test_unsloth_gets_the_settings_of_the_others():
    job = {
        "folder": "/m",
        "model": {"compute_dtype": "bfloat16"},
        "train": {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "batch_size": 8,
            "micro_batch_size": 2,
            "learning_rate": 1e-4,
            "max_length": 128,
            "seed": 3,
        },
    }
    asked = settings(job, "qlora")
    assert asked["load"]["load_in_4bit"] and not settings(job, "lora")["load"]["load_in_4bit"]
    assert (asked["adapt"]["r"], asked["train"]["gradient_accumulation_steps"]) == (8, 4)
    assert asked["train"]["bf16"] and not asked["train"]["fp16"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def test_rows_are_between_half_and_all_of_the_length(base):
    prompter = ChatTokenizer.load(base)
    pairs = gpu.rows(12, 300, prompter)
    lengths = [prompter.count_tokens(pair) for pair in pairs]
    longest_word = 20  # a row ends before the word that would not fit
    assert all(150 - longest_word <= length < 300 for length in lengths) and len(set(lengths)) > 6
    assert pairs == gpu.rows(12, 300, prompter) != gpu.rows(12, 300, prompter, seed=1)
    with pytest.raises(ConfigError, match="chat template"):
        gpu.rows(1, 16, prompter)


@pytest.mark.train
def test_a_random_model_is_written_in_shards_and_loads(base, tmp_path):
    folder = write_model(tmp_path / "random", "tiny", base, shard_bytes=40_000)
    index = read_json(folder / INDEX)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2 and set(index["weight_map"].values()) == {path.name for path in shards}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    assert model.config.num_hidden_layers == SHAPES["tiny"]["num_hidden_layers"]
    assert sum(value.nbytes for value in model.parameters()) == index["metadata"]["total_size"]
    weight = model.model.layers[0].mlp.up_proj.weight.detach().float()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
    assert bool((model.model.norm.weight == 1).all())
    before = shards[0].stat().st_mtime_ns
    write_model(folder, "tiny", base)
    assert shards[0].stat().st_mtime_ns == before, "what is there is used again"


@pytest.mark.long
@pytest.mark.train
def test_the_whole_script_runs_on_a_tiny_shape(base, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # the script changes it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    words = (
        f"--device cpu --shape tiny --tokenizer {base} --tokens 96 --rounds 1 --steps 2 --warmup 1 --batch 4 "
        "--micro-batch 2 --rank 4 --candidates ours-qlora,tuned-lora --json"
    )
    assert gpu.main(words.split()) == 0
    record = json.loads(capsys.readouterr().out)
    rows = {row["candidate"]: row for row in record["rows"]}
    assert set(rows) == {"ours-qlora", "tuned-lora"}
    assert not any(row["failed"] for row in rows.values())
    assert len(rows["ours-qlora"]["losses"]) == 3
    for row in rows.values():
        assert row["tokens_per_second"]["median"] > 0 and row["peak_memory_bytes"] > 0
        assert all(math.isfinite(loss) for loss in row["losses"])
    seen = {each["candidate"]: sum(each["step_tokens"]) for each in record["runs"]}
    # the same text, packed or not
    assert seen["tuned-lora"] == pytest.approx(seen["ours-qlora"], rel=0.05)
    assert record["hardware"]["device"] == "cpu" and "torch" in record["hardware"]["versions"]
