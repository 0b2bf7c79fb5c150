"""``python -m benchmarks.documents --train``: an assistant that is trained to read, against copying the best statement.

The 16-bit arm is trained on drafts from templates, which nobody looked over, and tested on the questions of
``examples/toolworks/gold/reading.jsonl``, written before the first training. The study ``toolworks-trained`` stays in
the folder of studies, so that a measurement that was interrupted resumes. Token F1 with the gold answer decides; the
share of answers that have all values of the gold answer is printed beside it, because a whole statement has the value
that a question asks for. Without the bundled base only copying is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import assistant_builder as ab
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.documents.questions import PEOPLE, DocumentQuestion, Questions
from assistant_builder.documents.store import Documents
from assistant_builder.documents.types import Statement
from assistant_builder.runner.open_documents import open_documents
from assistant_builder.study import Study, studies_folder
from benchmarks.make_documents import EXAMPLE
from evals.compare import paired_comparison

NAME = "toolworks-trained"
TARGET = 0.1
"""Least difference of the token F1 on questions of parts and of two statements."""
_SETTINGS = {
    "arms": ["lora"],
    "formats.types": [],
    "eval.retention": False,
    "eval.fidelity": False,
    "eval.noise_floor": False,
    "eval.cells": ["L16"],
}


def trained_study(seeds: int, questions: Sequence[Mapping[str, Any]]) -> Study:
    """The study with its questions, trained and scored; ``questions`` are the gold ones."""
    config = StudyConfig(name=NAME).with_changes({**_SETTINGS, "seeds": seeds})
    if not (studies_folder() / NAME).exists():
        study = Study.create(config)
        open_documents([str(EXAMPLE / "documents")], name=NAME)
        api = ab.open(NAME)
        api.draft_questions(3)
        api.train_unseen_questions()
        statements = Documents(study).statements
        Questions(study).add(_asked(each, statements) for each in questions)
    study = Study.open(NAME)
    study.write_config(study.config.with_changes({"seeds": seeds}))
    ab.open(NAME).run()
    return study


def _asked(question: Mapping[str, Any], statements: Sequence[Statement]) -> DocumentQuestion:
    from benchmarks.documents import states

    keys = tuple(
        next(each.key for each in statements if states(each, wanted)) for wanted in question["of"]
    )
    words = question["question"], question["answer"] or ""
    return DocumentQuestion(*words, keys, question["kind"], PEOPLE, "accepted")


def measure(seeds: int, questions: Sequence[Mapping[str, Any]]) -> bool:
    """Print the comparison; whether the target is reached."""
    study = trained_study(seeds, questions)
    gold = {each["question"]: each for each in questions}
    trained = {each["cluster"] for each in read_jsonl(study.split_file("train"))}
    keys = {key for cluster in trained for key in cluster.split()}
    copied = _samples(study, "baselines/copy", 1)
    tuned = [_samples(study, "L16", seed) for seed in range(1, seeds + 1)]
    names = [name for name in copied if gold[name]["kind"] != "unanswerable"]
    groups = {
        kind: [name for name in names if gold[name]["kind"] == kind] for kind in ("part", "two")
    }
    groups["both"] = names
    groups["both, statements without a training question"] = [
        name for name in names if keys.isdisjoint((copied[name]["cluster"] or "").split())
    ]
    reached = False
    print(
        f"base {study.config.model.base}, 16-bit LoRA, seeds: {seeds}; copying the best statement, tuned:"
    )
    for group, members in groups.items():
        for metric in ("token F1", "all values"):
            before = [_score(copied[name], gold[name], metric) for name in members]
            each = [[_score(one[name], gold[name], metric) for name in members] for one in tuned]
            after = [sum(scores) / seeds for scores in zip(*each, strict=True)]
            clusters = [copied[name]["cluster"] for name in members]
            found = paired_comparison(before, after, clusters=clusters)
            by_seed = ", ".join(f"{100 * sum(one) / len(one):.1f}" for one in each)
            print(
                f"  {group} ({len(members)}), {metric}: {100 * sum(before) / len(before):.1f}, "
                f"{100 * sum(after) / len(after):.1f} (by seed {by_seed}); difference {100 * found.delta:+.1f}, 95 % "
                f"interval {100 * found.ci_low:+.1f} to {100 * found.ci_high:+.1f}"
            )
            if (group, metric) == ("both", "token F1"):
                reached = found.delta >= TARGET and found.ci_low > 0
    for label, kind in (("rightly declined", True), ("falsely declined", False)):
        asked = [name for name in copied if (gold[name]["kind"] == "unanswerable") == kind]
        counts = [sum(bool(one[name]["declined"]) for name in asked) for one in (copied, *tuned)]
        print(f"  {label} of {len(asked)}: copying {counts[0]}, tuned by seed {counts[1:]}")
    print(
        f"target, both, token F1: {100 * TARGET:.0f} points, interval above zero: {'reached' if reached else 'missed'}"
    )
    return reached


def _samples(study: Study, cell: str, seed: int) -> dict[str, dict[str, Any]]:
    lines = read_jsonl(study.cell_folder(cell, seed=seed) / "samples.jsonl")
    return {line["question"]: line for line in lines}


def _score(sample: Mapping[str, Any], gold: Mapping[str, Any], metric: str) -> float:
    if metric == "token F1":
        return float(sample["metrics"]["token_f1"])
    answer = sample["answer"].casefold()
    return float(all(value.casefold() in answer for value in gold["values"]))
