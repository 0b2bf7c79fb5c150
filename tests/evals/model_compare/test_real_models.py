"""The bundled base model: a file against its own folder, a file with damaged weights, and the endpoints of servers."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assistant_builder as ab
from assistant_builder.config import ModelConfig, StudyConfig
from assistant_builder.inference import llamacpp
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.gguf_convert import convert_checkpoint
from assistant_builder.quantization.gguf import quantize
from assistant_builder.study import Study
from evals.model_compare import Judgement
from tests.commands import serving

pytestmark = [
    pytest.mark.train,
    pytest.mark.long,
    pytest.mark.skipif(not llamacpp.is_installed(), reason="xllamacpp is not installed"),
]
CAMPSITE = Path(__file__).parents[3] / "datasets_cards" / "larkmoor-campsite" / "data.csv"
LIMIT = 12
"""Tokens of an answer of llama.cpp's, and words of a copied one."""
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


@pytest.fixture
def short_answers(tmp_path: Path) -> Path:
    """40 questions of the campsite's with a short answer, to which a copy adds no "Yes"."""
    with CAMPSITE.open(encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["answerable"] != "false"
            and row["question"].startswith(("W", "How"))
            and len(row["answer"].split()) <= LIMIT
        ]
    path = tmp_path / "short.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[place * len(rows) // 40] for place in range(40))
    return path


def test_servers_of_two_programs_are_judged_by_their_answers(
    short_answers, full, tmp_path, monkeypatch
):
    """This product's server copies the right answers, llama.cpp's generates those of an untuned model."""
    small = quantize(full, tmp_path / "Q8_0.gguf", "Q8_0").path
    Study.create(StudyConfig().named("campsite"), CAMPSITE)
    settings = {
        "eval.max_new_tokens": LIMIT,
        "eval.bootstrap_resamples": 400,
        "eval.decline_margin": 0.12,  # 40 questions leave the declines open by more than 5 points
    }
    judged = []
    with (
        serving("campsite --mode copy") as (ready, _),
        llamacpp.LlamaServer(small, context=512, slots=4) as untuned,
    ):
        copies, base = f"campsite@{ready['url']}", f"base@http://{untuned._address}/v1"
        key = untuned.headers["Authorization"].removeprefix("Bearer ")  # it asks for one
        for letter, words in (("B", (copies, base)), ("A", (base, copies))):
            with monkeypatch.context() as patch:
                patch.setenv(f"ASSISTANT_BUILDER_KEY_{letter}", key)
                judged.append(ab.judge(short_answers, *words, **settings))
    assert [each.outcomes for each in judged] == [["worse"], ["no worse"]]
    for each, copied, generated in zip(judged, "AB", "BA", strict=True):
        report = each.report
        assert report["rests_on_answers"] and report["loss"] is None
        assert not any(candidate["errors"] for candidate in report["candidates"])
        right = {
            letter: [item["metrics"][letter]["exact_match"] for item in report["items"]]
            for letter in "AB"
        }
        assert right[copied] == [1] * 40 and right[generated] == [0] * 40
