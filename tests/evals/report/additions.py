"""What a report says beside the cells, as the page gets it: written down by hand, so that every number is known."""

import copy
from pathlib import Path
from typing import Any

import yaml

from assistant_builder.i18n import bits
from assistant_builder.quantization import texts_of

Report = dict[str, Any]
RECORDS = Path(__file__).with_name("additions.yaml").read_text(encoding="utf-8")


def contrast(name: str, metric: str, delta: float, low: float, high: float, **more: Any) -> Report:
    """A row of ``contrasts``."""
    candidate, baseline = name.split("-")
    return {
        "name": name,
        "candidate": candidate,
        "baseline": baseline,
        "metric": metric,
        "meaning": f"meaning of {name}",
        "delta": delta,
        "ci_low": low,
        "ci_high": high,
        "p_value": 0.02,
        "p_value_holm": 0.04,
        "n": 120,
        "n_clusters": None,
        "method": "BCa",
        "higher_is_better": metric != "nll_per_token",
        "warnings": [],
        **more,
    }


def additions(text: str = "Which lamp?") -> Report:
    """Everything that can be measured beside the cells; ``text`` stands where a stranger's text does."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        if isinstance(value, str):
            return value.replace("{bits}", str(bits())).replace("{text}", text)
        return value

    made = filled(yaml.safe_load(RECORDS))
    made["fidelity"]["pairs"] = [
        {
            "name": name,
            "candidate": name.split("-")[0],
            "reference": name.split("-")[1],
            "tokens": 2_912,
            "label": f"label of {name}",
            "kl_mean": mean,
            "kl_median": 0.2 * mean,
            "kl_p99": 9 * mean,
            "kl_max": 40 * mean,
            "top1_agreement": 0.953,
            "delta_nll": 0.0123,
        }
        for name, mean in made["fidelity"].pop("means").items()
    ]
    retention = made["tasks"]["ab_retention"]
    retention["contrasts"] = [
        contrast(name, "acc", -0.042, -0.08, -0.004) for name in retention["flips"]
    ]
    return made


def with_additions(report: Report, text: str = "Which lamp?") -> Report:
    """A report with everything that can be measured beside its cells."""
    with texts_of(report["config"]["model"]["quant_type"]):
        added = additions(text)
    noise_floor, used = added.pop("noise_floor"), added.pop("resources")
    made = {**copy.deepcopy(report), **added}
    if made["flips"]:
        made["flips"]["noise_floor"] = noise_floor
    for record in made["resources"].values():
        record |= used
    made["contrasts"] += [
        contrast("L16-retrieval", "nll_per_token", -0.75, -0.81, -0.69),
        contrast("Q4-copy", "token_f1", 0.093, 0.031, 0.155),
    ]
    return made
