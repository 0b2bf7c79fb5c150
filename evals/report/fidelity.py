"""How far 4-bit storage moves the model's predictions, token by token, and the items it hurts most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.files import read_json, read_jsonl
from assistant_builder.study import Study
from evals.report.contrasts import HEADLINE
from evals.report.reading import BASELINE, CANDIDATE, Cell
from evals.report.wording import nats, percent

_LABELS = {
    "B4-B16": "storing the untuned base in 4 bits",
    "L4-L16": "storing the base in 4 bits under the 16-bit-trained adapter",
    "Q4-Q16": "storing the base in 4 bits under QLoRA's adapter",
    HEADLINE: "QLoRA against its 16-bit twin, training included",
}
WORST = 10
"""Items listed with the largest increase of loss."""


def fidelity(study: Study) -> dict[str, Any] | None:
    """``evals/fidelity.json`` with labels and a sentence; ``None`` where it was not asked for or not tried.

    ``skipped`` says why it could not be made; there are no pairs then.
    """
    path = study.folder / "evals" / "fidelity.json"
    if not study.config.compares or not study.config.eval.fidelity or not path.exists():
        return None
    record = {key: value for key, value in read_json(path).items() if key != "inputs"}
    pairs = [{**pair, "label": _LABELS.get(pair["name"], pair["name"])} for pair in record.get("pairs", [])]
    skipped = record.get("skipped")
    sentence = f"Not compared token by token: {skipped.rstrip('.')}." if skipped else _sentence(
        {pair["name"]: pair for pair in pairs})
    return {**record, "pairs": pairs, "skipped": skipped, "sentence": sentence}


def _sentence(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    storage, whole = pairs.get("L4-L16"), pairs.get(HEADLINE)
    if storage:
        lines.append("Storing the base in 4 bits, under one and the same adapter, moves the prediction of the next "
                     f"token by {_moved(storage)}.")
    if whole:
        lines.append(f"Between QLoRA and its 16-bit twin, training included, it is {_moved(whole)}.")
    return " ".join([*lines, "No change at all would be 0 nats and 100%."]) if lines else ""


def _moved(pair: Mapping[str, Any]) -> str:
    return (f"{nats(pair['kl_mean'])} nats on average (median {nats(pair['kl_median'])}, 99th percentile "
            f"{nats(pair['kl_p99'])}), with the likeliest token the same at {percent(pair['top1_agreement'])} of the "
            "places")


def worst_items(study: Study, cells: Mapping[str, Cell]) -> list[dict[str, Any]]:
    """The items on which QLoRA's loss exceeds its twin's the most, in summed nats, largest first.

    None in a study without the twin.
    """
    if not study.config.compares:
        return []
    path = study.folder / "evals" / "fidelity.jsonl"
    known = read_jsonl(path) if study.config.eval.fidelity else []
    lines = {str(line["item"]): line["pairs"] for line in known}
    before, after = cells[BASELINE].by_item, cells[CANDIDATE].by_item
    increase = {item: after[item]["nll"] - before[item]["nll"] for item in before}
    listed = sorted((item for item in before if increase[item] > 0), key=lambda item: -increase[item])[:WORST]
    return [{
        **{key: before[item].get(key) for key in ("item", "row", "question", "reference", "tokens")},
        "delta_nll": increase[item], "delta_nll_per_token": increase[item] / before[item]["tokens"],
        "kl_mean": lines.get(item, {}).get(HEADLINE, {}).get("kl_mean"),
        "answers": {name: cells[name].by_item[item].get("answer") for name in (BASELINE, CANDIDATE)},
    } for item in listed]
