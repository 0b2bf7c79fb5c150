"""How alike the 16-bit and the 4-bit models are: token by token, answer by answer, and where they part most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.answers import cut, marked
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.views.headline import HEADLINE
from evals.report.wording import count, nats, percent, plural, signed

Report = Mapping[str, Any]


def fidelity_rows(report: Report) -> list[dict[str, Any]]:
    """The divergence of each pair of models, same adapter first; empty where it was not measured."""
    pairs = (report.get("fidelity") or {}).get("pairs") or []
    return [
        {"name": f"{pair['reference']} → {pair['candidate']}", "label": pair.get("label") or "",
         "trained": pair["name"] == HEADLINE, "tokens": count(pair["tokens"]),
         "mean": nats(pair["kl_mean"]), "median": nats(pair["kl_median"]), "p99": nats(pair["kl_p99"]),
         "max": nats(pair["kl_max"]), "agreement": percent(pair["top1_agreement"]),
         "loss": signed(pair["delta_nll"], 4)}
        for pair in pairs
    ]


def fidelity_note(report: Report) -> str:
    """What the divergences come to, or why there are none; empty where nothing is on record."""
    fidelity = report.get("fidelity") or {}
    return str(fidelity.get("sentence") or fidelity.get("skipped") or "")


def worst_items(report: Report) -> list[dict[str, Any]]:
    """The items on which QLoRA's loss rose most over LoRA's, with both answers."""
    shown = []
    for row in report.get("worst") or []:
        answers = row["answers"]
        both = answers.get(BASELINE) is not None and answers.get(CANDIDATE) is not None
        runs = marked(cut(answers[BASELINE]), cut(answers[CANDIDATE])) if both else (None, None)
        divergence = row.get("kl_mean")
        shown.append({
            "row": row["row"], "question": cut(row["question"]), "reference": cut(row["reference"]),
            "harm": f"{signed(row['delta_nll'], 2)} nats over {plural(row['tokens'], 'token')}, "
                    f"{signed(row['delta_nll_per_token'], 3)} a token",
            "divergence": "" if divergence is None else nats(divergence),
            "sides": [{"arm": arm, "label": label, "runs": run}
                      for arm, label, run in (("lora", "LoRA, 16-bit", runs[0]), ("qlora", "QLoRA, 4-bit", runs[1]))],
        })
    return shown


def flip_rows(report: Report) -> list[dict[str, Any]]:
    """Answers that change between the arms, beside those that change when only the scoring batch does."""
    flips = report["flips"]
    if flips is None:
        return []
    rows = [{
        "what": "QLoRA against LoRA", "about": "Q4 against L16", "floor": False, "lost": count(len(flips["lost"])),
        "gained": count(len(flips["gained"])), "differs": count(flips["text_differs"]), "asked": count(flips["items"]),
        "shift": "",
    }]
    for name, cell in ((flips.get("noise_floor") or {}).get("cells") or {}).items():
        sizes = [count(cell[key]) for key in ("batch_size", "other_batch_size")]
        rows.append({
            "what": f"{report['cells'][name]['label']} against itself", "floor": True,
            "about": f"{name}, scored {sizes[0]} and {sizes[1]} at a time",
            "lost": count(cell["lost"]), "gained": count(cell["gained"]), "differs": count(cell["text_differs"]),
            "asked": count(cell["items"]), "shift": nats(cell["largest_nll_per_token_shift"]),
        })
    return rows


def noise_sentence(report: Report) -> str:
    """What another scoring batch changes; empty where that was not measured."""
    return str(((report["flips"] or {}).get("noise_floor") or {}).get("sentence") or "")
