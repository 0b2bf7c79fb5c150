"""The bundled base model: a file against its own folder, and a file with damaged weights."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assistant_builder as ab
from assistant_builder.config import ModelConfig
from assistant_builder.inference import llamacpp
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.gguf_convert import convert_checkpoint
from assistant_builder.quantization.gguf import quantize
from evals.model_compare import Judgement

pytestmark = [
    pytest.mark.train,
    pytest.mark.long,
    pytest.mark.skipif(not llamacpp.is_installed(), reason="xllamacpp is not installed"),
]
CAMPSITE = Path(__file__).parents[3] / "datasets_cards" / "larkmoor-campsite" / "data.csv"
TENSOR, BLOCK = (
    "blk.3.ffn_down.weight",
    18,
)  # bytes of a block of Q4_0: a scale of two, and 32 levels


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """200 questions of the campsite's, spread over its facts."""
    with CAMPSITE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["answerable"] != "false"]
    path = tmp_path / "questions.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "cluster"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[place * len(rows) // 200] for place in range(200))
    return path


@pytest.fixture
def full(tmp_path: Path, bundled_models: None) -> Path:
    """The base in 16 bits."""
    path = tmp_path / "F16.gguf"
    convert_checkpoint(fetch_base(ModelConfig()), path)
    return path


def damaged(path: Path, target: Path) -> Path:
    """A copy in which the scales of one tensor are shuffled."""
    from gguf import GGUFReader

    shutil.copy(path, target)
    reader = GGUFReader(target, "r+")
    (tensor,) = (each for each in reader.tensors if each.name == TENSOR)
    blocks = tensor.data.reshape(-1, BLOCK)
    scales = blocks[:, :2].copy()
    np.random.default_rng(0).shuffle(scales)
    blocks[:, :2] = scales
    reader.data.flush()
    return target


def loss_of(judged: Judgement) -> dict[str, Any]:
    (bound,) = (each for each in judged.verdicts[0]["bounds"] if each["metric"] == "nll_per_token")
    return bound


def test_a_file_is_within_the_margins_of_its_own_folder(questions, full):
    """Not all of "no worse": facts kept, of which an untuned model keeps hardly any, stay open at 200 questions."""
    judged = ab.judge(
        questions,
        str(fetch_base(ModelConfig())),
        full,
        **{
            "eval.primary_metric": "token_f1",
            "eval.max_new_tokens": 16,
            # the untuned model's answers often look like declines, and flip with rounding
            "eval.decline_margin": 0.15,
        },
    )
    assert not judged.report["prompts"]  # llama.cpp makes the same prompts as transformers
    assert judged.outcomes[0] != "worse"
    passed = {each["metric"] for each in judged.verdicts[0]["bounds"] if each["passed"]}
    assert passed >= {"token_f1", "nll_per_token", "false_decline"}
    assert abs(loss_of(judged)["delta"]) < 0.02


def test_shuffled_scales_of_one_tensor_are_worse(questions, full, tmp_path):
    plain = tmp_path / "Q4_0.gguf"
    quantize(full, plain, "Q4_0")
    broken = damaged(plain, tmp_path / "damaged.gguf")
    judged = ab.judge(questions, plain, broken, **{"eval.max_new_tokens": 4})
    assert judged.outcomes == ["worse"]
    assert loss_of(judged)["delta"] > 0.03
