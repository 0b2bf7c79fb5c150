"""Grounded studies without a run: an index over their training pairs, and a rule that looks at the similarity alone."""

from typing import Any

from assistant_builder.atomic_io import write_json
from assistant_builder.data import load_split
from assistant_builder.retrieval.decline import FILE, NAMES, DeclineRule
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.ranking import PLAIN
from assistant_builder.study import Study

SENTENCE = "I was not told that."


def with_index(study: Study, embedder: Any, threshold: float = 0.5) -> Study:
    """Add index and rules, which decline a question whose nearest fact has a smaller cosine than ``threshold``."""
    training = load_split(study.folder / "data", "train")
    Index.build(training, embedder, weights=PLAIN).save(study.retrieval_folder)
    for name in ("contexts.jsonl", "recall.json"):
        (study.retrieval_folder / name).write_text("{}")
    weights = tuple(50.0 * (name == "similarity") for name in NAMES)
    rule = DeclineRule(
        (0.0,) * len(NAMES),
        (1.0,) * len(NAMES),
        weights,
        -50 * threshold,
        0.5,
        0.04,
        True,
        40,
        1,
        40,
        35,
        SENTENCE,
    )
    for arm in study.config.arms:
        write_json(study.arm_folder(arm) / FILE, {"inputs": {}, "rule": rule.to_record()})
    return study
