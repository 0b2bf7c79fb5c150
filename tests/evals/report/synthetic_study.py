"""A study folder written by hand, as a finished run would leave it, without training anything."""

import dataclasses
import math
import random
import re
from collections import Counter
from typing import Any

from assistant_builder.arms import ARMS, further_arms
from assistant_builder.atomic_io import append_jsonl, file_hash, write_json, write_jsonl, write_text
from assistant_builder.config import StudyConfig
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord
from tests.measured_study import with_everything
from tests.synthetic_study import FOUR_BIT, arm_files, step_event, validation_event
from tests.texts import parts

TOWNS = tuple(
    parts(
        """
    Aldermoor | Brisk Haven | Cotterby | Dunmarsh | Eskerling | Farrow Point | Gannet Rock
    Hollin Bay
    """
    )
)
FACTS = (
    ("lamp", "red oil lamp", "green oil lamp"),
    ("keeper", "Marta Oduya", "Martin Oduya"),
    ("height", "31 metres", "13 metres"),
    ("year built", "1874", "1847"),
    ("fog signal", "two blasts a minute", "three blasts a minute"),
)
PHRASINGS = (
    "What is the {fact} of the lighthouse at {town}?",
    "Tell me the {fact} of {town} lighthouse.",
    "Which {fact} does the {town} light have?",
    "For {town}: {fact}?",
    "I need the {fact} recorded for the lighthouse of {town}.",
)
DECLINE = "I do not know that; it is not in the lighthouse records."
CELLS = ("B16", "B4", "L16", "Q4")
ALL_CELLS = ("B16", "B4", "L16", "Q4", "L4", "Q16", "QD", "QR", "LM", "LR")
LEVELS = {
    "B16": 1.0,
    "B4": 1.3,
    "L4": 0.024,
    "Q16": 0.021,
    "QD": 0.001,
    "QR": 0.013,
    "LM": 0.0005,
    "LR": 0.026,
}
"""Loss above that of the adapter's own cell, nats a token."""


@dataclasses.dataclass
class Recipe:
    """What kind of study to write.

    ``harm`` is the mean of Q4's loss minus L16's in nats a token; ``flips`` the share of answers QLoRA gets wrong
    that LoRA gets right. Cells in ``forced`` are scored on the reference answers only.
    ``beside`` adds further measurements (:mod:`tests.measured_study`); without it the folder is one of a
    version that had none of that.
    """

    name: str = "lighthouses"
    towns: int = 8
    clustered: bool = True
    unanswerable: int = 8
    harm: float = 0.004
    harm_noise: float = 0.06
    flips: float = 0.04
    cells: tuple[str, ...] = CELLS
    metrics: tuple[str, ...] = ("exact_match", "token_f1", "rouge_l", "similarity")
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    leaks: int = 0
    question: str | None = None
    answer: str | None = None
    seed: int = 1
    forced: tuple[str, ...] = ()
    beside: bool = False
    seeds: int = 1
    judge: bool = True


def full_recipe(**changes: Any) -> Recipe:
    """Ten cells, every metric and everything that is measured beside them."""
    metrics = ("exact_match", "token_f1", "rouge_l", "chrf", "facts_kept", "similarity")
    return Recipe(
        **{
            "name": "full",
            "cells": ALL_CELLS,
            "metrics": metrics,
            "forced": ("L4",),
            "beside": True,
            **changes,
        }
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _scores(answer: str, reference: str) -> dict[str, float]:
    given, wanted = Counter(_words(answer)), Counter(_words(reference))
    shared = sum((given & wanted).values())
    f1 = 2 * shared / (given.total() + wanted.total()) if shared else 0.0
    numbers = set(re.findall(r"\d+", reference))
    facts = {"facts_kept": len(numbers & set(_words(answer))) / len(numbers)} if numbers else {}
    return {
        "exact_match": float(_words(answer) == _words(reference)),
        "token_f1": f1,
        "rouge_l": 0.97 * f1,
        "chrf": 0.05 + 0.9 * f1,
        "similarity": 0.3 + 0.7 * f1,
        **facts,
    }


def _questions(recipe: Recipe) -> list[dict[str, Any]]:
    rows = []
    for town in TOWNS[: recipe.towns]:
        for fact, right, wrong in FACTS:
            for phrasing in PHRASINGS:
                rows.append(
                    {
                        "question": phrasing.format(fact=fact, town=town),
                        "wrong": wrong,
                        "answerable": True,
                        "cluster": f"{town} {fact}" if recipe.clustered else None,
                        "reference": f"The {fact} of {town} is {right}.",
                    }
                )
    for number in range(recipe.unanswerable):
        rows.append(
            {
                "question": f"What did the keeper of light {number + 1} dream of?",
                "wrong": "He dreamt of the sea.",
                "answerable": False,
                "cluster": f"unknown {number}" if recipe.clustered else None,
                "reference": DECLINE,
            }
        )
    if recipe.question is not None:
        rows[0]["question"] = recipe.question
    return rows


def _answer(
    cell: str, row: dict[str, Any], luck: random.Random, recipe: Recipe, right16: bool
) -> str:
    if cell in ("LM", "QD"):
        return _answer({"LM": "L16", "QD": "Q4"}[cell], row, luck, recipe, right16)
    if cell in ("B16", "B4"):
        return (
            "A lighthouse is a tower that guides ships at sea."
            if cell == "B16"
            else "The lighthouse is a tower."
        )
    right = (
        right16
        if cell == "L16"
        else (right16 and luck.random() > recipe.flips) or luck.random() < 0.02
    )
    if right:
        return row["reference"]
    reply = (
        row["wrong"]
        if not row["answerable"]
        else re.sub(r" is .*", f" is {row['wrong']}.", row["reference"])
    )
    return reply if recipe.answer is None else recipe.answer


def _samples(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    luck = random.Random(recipe.seed)
    samples: dict[str, list[dict[str, Any]]] = {cell: [] for cell in recipe.cells}
    for number, row in enumerate(_questions(recipe), start=1):
        tokens = len(_words(row["reference"])) + 3
        base, right16 = 0.5 + luck.expovariate(2.5), luck.random() < 0.68
        for cell in recipe.cells:
            harm = (
                0.0
                if cell == "L16"
                else luck.gauss(
                    0.0 if cell in ("L4", "LM", "LR") else recipe.harm, recipe.harm_noise
                )
            )
            per_token = max(base + LEVELS.get(cell, 0.0) + harm, 0.01)
            answer = None if cell in recipe.forced else _answer(cell, row, luck, recipe, right16)
            scores = {} if answer is None else _scores(answer, row["reference"])
            right = scores.get("exact_match") == 1
            samples[cell].append(
                {
                    "item": str(number),
                    "row": number,
                    "turn": 0,
                    "cluster": row["cluster"],
                    "answerable": row["answerable"],
                    "question": row["question"],
                    "prompt": [{"role": "user", "content": row["question"]}],
                    "reference": row["reference"],
                    "answer": answer,
                    "nll": per_token * tokens,
                    "tokens": tokens,
                    "mean_probability": min(0.99, math.exp(-per_token) * (1.2 if right else 0.8)),
                    "metrics": {
                        "nll_per_token": per_token,
                        **{k: v for k, v in scores.items() if k in recipe.metrics},
                    },
                    "declined": None if answer is None else answer == DECLINE,
                }
            )
    return samples


def _write_cells(study: Study, recipe: Recipe) -> None:
    for cell, rows in _samples(recipe).items():
        folder = study.cell_folder(cell)
        write_jsonl(folder / "samples.jsonl", rows)
        nll, tokens = sum(row["nll"] for row in rows), sum(row["tokens"] for row in rows)
        write_json(
            folder / "scores.json",
            {
                "cell": cell,
                "items": len(rows),
                "tokens": tokens,
                "nll_per_token": nll / tokens,
                "base": "nf4" if cell in FOUR_BIT else "float16",
                "base_bytes": 110_000_000 if cell in FOUR_BIT else 269_000_000,
                "adapter": {"L": "lora", "Q": "qlora"}.get(cell[0]),
                "compute_dtype": "bfloat16",
                "batch_size": 16,
                "seconds": {"load": 1.2, "nll": 14.8, "generate": 61.0, "similarity": 4.1},
            },
        )


def _write_arm(study: Study, arm: str, storage: str, offset: float) -> None:
    path, luck = study.arm_folder(arm) / "metrics.jsonl", random.Random(arm)
    for step in range(1, 61):
        loss = 0.7 + 2.2 * 0.94**step + offset + luck.gauss(0, 0.08)
        append_jsonl(path, step_event(step, 60, loss, 2.2, epoch=step / 20, tokens=step * 640))
        if step % 15 == 0:
            loss = 0.78 + 1.9 * 0.945**step + offset
            append_jsonl(path, validation_event(step, 60, loss, 2.2))
    arm_files(
        study,
        arm,
        storage,
        train_seconds=141.3 if arm == "lora" else 133.9,
        tokens_per_second=281.0 if arm == "lora" else 303.0,
        tokens=38400,
        peak_memory_bytes=2_950_000_000 if arm == "lora" else 2_610_000_000,
        best_validation_loss=0.85 + offset,
        seed=0,
        train_pairs=384,
        adapter_sha256="ab" * 32,
        predicted={
            "base_bytes": 269_000_000 if storage == "float16" else 110_000_000,
            "adapter_bytes": 19_500_000,
            "peak_memory_bytes": 2_600_000_000,
            "train_seconds": 150.0,
            "flops": 2e13,
        },
    )


def _pair(number: int, question: str, row: dict[str, Any]) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": row["reference"]},
    ]
    return {
        "row": number,
        "messages": messages,
        "cluster": row["cluster"],
        "answerable": row["answerable"],
    }


def _write_data(study: Study, recipe: Recipe) -> None:
    folder = study.folder / "data"
    rows = _questions(recipe)
    taught = {row["cluster"]: row for row in rows if row["answerable"] and row["cluster"]}
    asked = [_pair(number, row["question"], row) for number, row in enumerate(rows, 1)]
    write_jsonl(study.split_file("heldout"), asked)
    write_jsonl(
        study.split_file("train"),
        [
            _pair(1000, "q", {"reference": "a", "cluster": None, "answerable": True}),
            *(
                _pair(1001 + number, f"taught {number}", row)
                for number, row in enumerate(taught.values())
            ),
        ],
    )
    write_jsonl(study.split_file("validation"), [])
    write_text(folder / "card.md", "# Lighthouses\n")
    write_json(
        folder / "findings.json",
        {
            "format": "csv",
            "columns": {"question": "question", "answer": "answer", "cluster": "fact"},
            "rows": 640,
            "usable": 632,
            "rejected": [{"row": 12, "reason": "the answer is empty"}] * 8,
            "exact_duplicates": 3,
            "near_duplicates": 14,
            "conflicts": 0,
            "one_word_answers": 0,
            "over_long": 0,
            "answers_shared": 160,
            "notes": [],
        },
    )
    write_json(
        folder / "split.json",
        {
            "given": True,
            "seed": 0,
            "counts": {"train": 384, "validation": 40, "heldout": 208},
            "hashes": {
                split: file_hash(study.split_file(split))
                for split in ("train", "validation", "heldout")
            },
            "leaks": [],
            "leaks_removed": 0,
            "notes": ["the split is the file's own"],
            "units": {"kind": "group", "counts": {"train": 40, "validation": 40, "heldout": 48}},
            "clusters": {"train": 40, "validation": 40, "heldout": 48},
        },
    )
    leak = {
        "heldout_row": 3,
        "other_row": 300,
        "split": "train",
        "kind": "embedding",
        "similarity": 0.97,
        "heldout_question": "Which lamp?",
        "other_question": "What lamp?",
        "removed": False,
    }
    write_json(study.embedding_file, {"threshold": 0.95, "leaks": [leak] * recipe.leaks})


def write_study(recipe: Recipe) -> Study:
    """Write the folder of a study that has been trained and evaluated, but not reported."""
    config = StudyConfig().with_changes(
        {
            "name": recipe.name,
            "seeds": recipe.seeds,
            "eval.bootstrap_resamples": 2000,
            "eval.primary_metric": "nll_per_token",
            "eval.margin": 0.03,
            "eval.decline_margin": 0.1,
            **recipe.settings,
        }
    )
    study = Study.create(config)
    _write_data(study, recipe)
    _write_arm(study, "lora", "float16", 0.0)
    _write_arm(study, "qlora", "nf4", 0.02)
    for arm in further_arms(config.arms):
        _write_arm(study, arm, ARMS[arm].base_storage("nf4"), 0.03)
    _write_cells(study, recipe)
    write_json(
        study.folder / "provenance.json",
        {
            "assistant_builder": "0.1.0",
            "git_revision": "0123abcd",
            "python": "3.11.13",
            "packages": {
                "torch": "2.13.0",
                "transformers": "5.24.0",
                "peft": "0.21.0",
                "bitsandbytes": "0.50.2",
            },
            "hardware": {
                "cpu": "AMD EPYC",
                "cores": 2,
                "memory_bytes": 16_000_000_000,
                "gpu": None,
            },
            "base_model": {
                "name": "smollm2-135m-instruct",
                "sha256": "cd" * 32,
                "origin": "dequantized from a Q4_1 GGUF",
            },
            "dataset_sha256": "ef" * 32,
        },
    )
    if recipe.beside:
        with_everything(study, seeds=recipe.seeds, judge=recipe.judge)
    study.write_step(
        StepRecord("evaluate", state="succeeded", started=1_760_000_000.0, seconds=330.0)
    )
    return study
