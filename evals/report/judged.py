"""What the optional judge said, with an interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from assistant_builder.files import read_json, read_jsonl
from assistant_builder.study import Study
from evals.preference import preference
from evals.report.reading import BASELINE, Cell
from evals.report.wording import SIGNIFICANT, percent, plural
from evals.significance import sign_test


def judged(study: Study, cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """``evals/judge.json`` with the preference for QLoRA, its interval and test; ``None`` without a judge."""
    path, config = study.folder / "evals" / "judge.json", study.config.eval
    if not study.config.compares or not config.judge_url or not path.exists():
        return None
    lines = [line for line in read_jsonl(path.with_suffix(".jsonl")) if str(line["item"]) in cells[BASELINE].by_item]
    clusters = [cells[BASELINE].by_item[str(line["item"])].get("cluster") for line in lines]
    found = preference(
        [line["outcome"] for line in lines],
        clusters=clusters if any(label is not None for label in clusters) else None, seed=config.seed,
    )
    choices = Counter(order["choice"] for line in lines for order in line["orders"])
    place = sign_test(choices["first"], choices["second"], choices["tie"])
    record = {**read_json(path), **found, "place_p_value": place.p_value, "first_of_decided": place.share}
    return {**record, "sentence": _sentence(record)}


def _sentence(record: Mapping[str, Any]) -> str:
    if record["preference"] is None:
        return f"The judge {record['model']} gave no usable verdict on {plural(record['items'], 'item')}."
    text = (
        f"The judge {record['model']} saw {plural(record['n'], 'item')} in both orders: QLoRA preferred on "
        f"{record['wins']:,}, 16-bit LoRA on {record['losses']:,}, no preference on {record['ties']:,} (on "
        f"{record['disagreements']:,} of these the two orders disagreed)"
    )
    if record["failures"]:
        text += f"; {plural(record['failures'], 'item')} failed and are left out"
    text += f". With a tie as half, QLoRA is preferred on {percent(record['preference'])}"
    if record["ci"] is None:
        return f"{text}."
    low, high = record["ci"]
    text += f" (95% interval {percent(low)} to {percent(high)}): "
    if low <= 0.5 <= high or record["p_value"] > SIGNIFICANT:
        return text + "no clear preference."
    return text + f"a clear preference for {'QLoRA' if low > 0.5 else '16-bit LoRA'}."
