"""Logic of the GPU benchmark on a CPU: arguments, rows, the random model, the table, and a run of a tiny shape."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import ConfigError
from assistant_builder.models.chat_template import ChatTokenizer
from benchmarks import gpu
from benchmarks.candidates import GPU_CANDIDATES
from benchmarks.gpu import summarize
from benchmarks.random_model import INDEX, SHAPES, shards_of, write_model
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
