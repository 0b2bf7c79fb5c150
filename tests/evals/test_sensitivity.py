"""Damage done on purpose is seen: by training on shuffled answers, and by a cruder storage of the base."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.arms import CELLS
from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.data import load_split
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import BaseSpec, load_base
from assistant_builder.study import Study
from assistant_builder.training.train import train_arm
from evals.cells import Variant, load_cells
from evals.compare import Comparison, paired_comparison
from evals.lm_eval_model import StudyLM
from evals.tasks.held_out import build_items
from tests.synthetic_study import LARGE, new_study, with_data

pytestmark = pytest.mark.train


@pytest.fixture
def folder(bundled_models: Path) -> Path:
    return bundled_models / "smollm2-135m-instruct"


@pytest.fixture
def study(folder: Path) -> Study:
    return with_data(
        new_study(
            "right",
            LARGE,
            data__max_train=96,
            data__max_heldout=80,
            train__max_steps=14,
            train__batch_size=8,
            train__micro_batch_size=8,
            train__evaluations=1,
            train__rank=8,
        )
    )


def scores_of(study: Study, model: Any, prompter: ChatTokenizer) -> list[Any]:
    items = build_items(load_split(study.folder / "data", "heldout"), prompter)
    lm = StudyLM(
        model,
        prompter,
        own_tasks=[],
        batch_size=32,
        max_new_tokens=4,
        tick=lambda kind, count: None,
    )
    return lm.score_targets([(item["prompt"], item["target"]) for item in items])


def harm(study: Study, baseline: list[Any], candidate: list[Any]) -> Comparison:
    return paired_comparison(
        [score.nll / score.tokens for score in baseline],
        [score.nll / score.tokens for score in candidate],
        clusters=[
            pair.cluster or str(pair.row) for pair in load_split(study.folder / "data", "heldout")
        ],
        weights=[score.tokens for score in baseline],
        margin=0.03,
        higher_is_better=False,
    )


@pytest.mark.slow
def test_an_arm_trained_on_shuffled_answers_is_worse_and_its_own_copy_is_not(study, folder):
    shuffled = Study(study.folder.with_name("shuffled"))
    shutil.copytree(study.folder, shuffled.folder)
    pairs = read_jsonl(shuffled.split_file("train"))
    answers = [pair["messages"][-1]["content"] for pair in pairs]
    for pair, answer in zip(
        pairs, answers[len(answers) // 2 :] + answers[: len(answers) // 2], strict=True
    ):
        pair["messages"][-1]["content"] = answer
    write_jsonl(shuffled.split_file("train"), pairs)
    split = shuffled.folder / "data" / "split.json"
    record = read_json(split)
    write_json(
        split,
        {
            **record,
            "hashes": {**record["hashes"], "train": file_hash(shuffled.split_file("train"))},
        },
    )
    prompter = ChatTokenizer.load(folder)
    found = {}
    for subject in (study, shuffled):
        train_arm(subject, "lora")
        for cell in load_cells(subject, folder, [Variant(CELLS["L16"])]):
            found[subject.name] = scores_of(study, cell.model, prompter)
    worse = harm(study, found["right"], found["shuffled"])
    assert worse.verdict == "worse" and worse.ci_low > 0

    copy = Study(study.folder.with_name("copy"))
    shutil.copytree(study.folder, copy.folder)
    for cell in load_cells(copy, folder, [Variant(CELLS["L16"])]):
        same = harm(study, found["right"], scores_of(study, cell.model, prompter))
    assert same.delta == 0.0 and same.verdict == "no worse"


@pytest.mark.slow
def test_quantized_bases_are_worse_than_float16(study, folder, compute_dtype):
    prompter = ChatTokenizer.load(folder)
    scores = {
        kind: scores_of(
            study,
            load_base(BaseSpec(folder, kind, kind == "nf4", compute_dtype, hold=True)),
            prompter,
        )
        for kind in ("float16", "nf4", "fp4")
    }
    # which of the two is worse cannot be told on this base, whose weights were rounded to 4 bits before
    for damaged in ("nf4", "fp4"):
        result = harm(study, scores["float16"], scores[damaged])
        assert result.verdict == "worse" and result.ci_low > 0, (damaged, result)
