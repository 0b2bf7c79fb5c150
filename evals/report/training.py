"""What the two training runs left: whether they were twins, how the loss fell, what they cost in time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from assistant_builder.config import ARMS
from assistant_builder.files import read_json, read_jsonl
from assistant_builder.steps import run_of
from assistant_builder.study import Study

INTENDED = ("arm", "base_storage")
"""The settings in which twins differ: the arm's name and how the frozen base is stored."""
EQUAL_IN_TWINS = ("steps", "tokens", "train_pairs", "trainable_parameters", "total_parameters", "compute_dtype")
"""Entries of the two ``summary.json`` that must agree, or the arms did not do the same work."""
_CONTRACT = ("base_bytes", "adapter_bytes", "peak_memory_bytes", "train_seconds", "tokens_per_second")


def arm_records(study: Study, file: str, *, seed: int = 1) -> dict[str, dict[str, Any]]:
    """``arms/<arm>/<file>`` of each arm that has it; of later seeds ``arms/<arm>-<seed>/<file>``."""
    paths = {arm: study.arm_folder(run_of(arm, seed)) / file for arm in study.config.arms}
    return {arm: read_json(path) for arm, path in paths.items() if path.exists()}


def resources(study: Study, summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Time and memory of each arm: bytes, seconds and tokens per second under the names of the contract.

    Args:
        study: The study, for the price of an hour and the runs with other seeds.
        summaries: ``summary.json`` by arm, of the first seed.

    Returns:
        Arm → its summary, with ``seconds_per_step``, ``cost`` of one run in the currency of the price (``None``
        without a price) and ``train_seconds_all``, one entry a seed.
    """
    config = study.config
    others = [arm_records(study, "summary.json", seed=seed) for seed in range(2, config.seeds + 1)]
    return {
        arm: {**{key: summary.get(key) for key in _CONTRACT},
              **{key: value for key, value in summary.items() if key not in _CONTRACT},
              **_derived(summary, config.eval.price_per_hour),
              "train_seconds_all": [found[arm].get("train_seconds") for found in (summaries, *others) if arm in found]}
        for arm, summary in summaries.items()
    }


def _derived(summary: Mapping[str, Any], price_per_hour: float | None) -> dict[str, float | None]:
    seconds, steps = summary.get("train_seconds"), summary.get("steps")
    return {
        "seconds_per_step": seconds / steps if seconds is not None and steps else None,
        "cost": price_per_hour * seconds / 3600 if seconds is not None and price_per_hour is not None else None,
    }


def twins(configs: dict[str, dict[str, Any]], summaries: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Compare the resolved settings of the two arms; ``None`` unless both are there.

    Args:
        configs: ``config.json`` by arm.
        summaries: ``summary.json`` by arm.

    Returns:
        ``matched``; ``differences`` as intended, ``unintended`` ones, each ``{"setting", "lora", "qlora"}``; ``same``,
        setting → value; and ``work``, what both runs did.
    """
    if set(configs) != set(ARMS):
        return None
    flat: dict[str, dict[str, Any]] = {arm: dict(flatten(configs[arm])) for arm in ARMS}
    keys = sorted(flat["lora"].keys() | flat["qlora"].keys())
    unequal = [_row(key, flat) for key in keys if flat["lora"].get(key) != flat["qlora"].get(key)]
    unintended = [row for row in unequal if row["setting"] not in INTENDED]
    if set(summaries) == set(ARMS):
        unintended += [_row(key, summaries) for key in EQUAL_IN_TWINS
                       if summaries["lora"].get(key) != summaries["qlora"].get(key)]
    stored = [row for row in unequal if row["setting"] == "base_storage"]
    return {
        "matched": not unintended and bool(stored),
        "differences": [row for row in unequal if row["setting"] in INTENDED],
        "unintended": unintended,
        "same": {key: flat["lora"].get(key) for key in keys if flat["lora"].get(key) == flat["qlora"].get(key)},
        "work": {arm: {key: summary.get(key) for key in (*EQUAL_IN_TWINS, "epochs", "best_step", "adapter_sha256")}
                 for arm, summary in summaries.items()},
    }


def _row(key: str, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"setting": key, **{arm: records[arm].get(key) for arm in ARMS}}


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested records by dotted key; lists of plain values count as leaves.

    Args:
        tree: Any JSON value.
        prefix: Dotted key of ``tree`` itself.
    """
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(value, (dict, list)) for value in tree):
        for number, value in enumerate(tree):
            yield from flatten(value, f"{prefix}.{number}")
    else:
        yield prefix, tree


def curves(study: Study) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Training and validation loss of each arm.

    A run that was carried on from a checkpoint logs some steps twice; the last one counts, as it is the one the
    adapter was made by.

    Returns:
        Arm → ``{"steps": [{"step", "loss", "learning_rate", "elapsed_seconds"}], "validation": [{"step", "loss"}]}``.
    """
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed_seconds")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm in study.config.arms:
        events: dict[str, dict[int, dict[str, Any]]] = {"step": {}, "validation": {}}
        for line in read_jsonl(study.arm_folder(arm) / "metrics.jsonl"):
            if line.get("event") in events and line.get("loss") is not None:
                events[line["event"]][line["step"]] = {key: line[key] for key in kept if key in line}
        if any(events.values()):
            found[arm] = {name: [rows[step] for step in sorted(rows)]
                          for name, rows in (("steps", events["step"]), ("validation", events["validation"]))}
    return found
