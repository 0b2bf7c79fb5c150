"""What a report says beside the cells, as the page gets it: written down by hand, so that every number is known."""

import copy
from typing import Any

from assistant_builder.i18n import bits
from assistant_builder.quantization import texts_of

Report = dict[str, Any]


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


def fidelity() -> Report:
    names = {"B4-B16": 0.081, "L4-L16": 0.047, "Q4-Q16": 0.00002, "Q4-L16": 0.069}
    return {
        "skipped": None,
        "sentence": f"Storing the base in {bits()} bits moved the predictions by 0.047 nats.",
        "pairs": [
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
            for name, mean in names.items()
        ],
    }


def worst(text: str = "Which lamp?") -> list[Report]:
    return [
        {
            "item": str(number),
            "row": number,
            "question": text,
            "reference": text,
            "tokens": 14,
            "delta_nll": 7.25 / number,
            "delta_nll_per_token": 7.25 / number / 14,
            "kl_mean": 0.31,
            "answers": {"L16": f"{text} The red lamp.", "Q4": f"{text} The green lamp."},
        }
        for number in range(1, 11)
    ]


def noise_floor() -> Report:
    cell = {
        "batch_size": 32,
        "other_batch_size": 7,
        "lost": 1,
        "gained": 2,
        "text_differs": 5,
        "items": 208,
    }
    return {
        "cells": {
            "L16": {**cell, "largest_nll_per_token_shift": 0.0081},
            "Q4": {**cell, "lost": 0, "largest_nll_per_token_shift": 0.0123},
        },
        "delta": 0.0043,
        "verdict": "no worse",
        "sentence": "Another batch size alone changes 5 of 208 answers.",
    }


def tasks(text: str = "What is the capital of Ghana?") -> Report:
    flips = {"lost": [3, 7], "gained": [9]}
    rows = [contrast(name, "acc", -0.042, -0.08, -0.004) for name in ("L16-B16", "Q4-B4", "Q4-L16")]
    document = {
        "question": text,
        "choices": [text, "Accra", "Quito", "Hanoi"],
        "answer": 1,
        "topic": "geography",
    }
    return {
        "ab_retention": {
            "label": "General knowledge",
            "about": "120 questions",
            "metric": "acc",
            "items": 120,
            "cells": {"B16": 0.625, "B4": 0.583, "L16": 0.5833, "Q4": 0.5333},
            "contrasts": rows,
            "flips": dict.fromkeys(("L16-B16", "Q4-B4", "Q4-L16"), flips),
            "error": None,
            "listed": [
                {
                    "doc_id": 3,
                    "document": document,
                    "lost_in": ["L16-B16"],
                    "chosen": {"B16": 1, "L16": 2},
                }
            ],
            "sentence": "Tuning forgot 2 of 120.",
        },
        "wikitext": {
            "label": "wikitext",
            "about": "an lm-eval task",
            "metric": "word_perplexity",
            "items": 62,
            "cells": {"B16": 21.5, "B4": 24.25, "L16": 22.125, "Q4": 25.0},
            "contrasts": [],
            "flips": {},
            "listed": [],
            "sentence": "",
            "error": None,
        },
        "arc_easy": {
            "label": "arc_easy",
            "about": "an lm-eval task",
            "metric": None,
            "items": 0,
            "cells": {},
            "contrasts": [],
            "flips": {},
            "listed": [],
            "sentence": "",
            "error": f"{text} its data set cannot be had",
        },
    }


def reliability() -> Report:
    bins = [
        {
            "low": 0.2,
            "high": 0.4,
            "n": 40,
            "mean_probability": 0.3,
            "correct": 0.25,
            "ci": [0.14, 0.4],
        },
        {
            "low": 0.6,
            "high": 0.8,
            "n": 90,
            "mean_probability": 0.7,
            "correct": 0.8,
            "ci": [0.7, 0.87],
        },
    ]
    return {
        "metric": "exact_match",
        "correct_means": "the answer equals the reference",
        "about": "about reliability",
        "cells": {
            "L16": {"bins": bins, "ece": 0.0877, "brier": 0.1944, "n": 130},
            "Q4": {"bins": copy.deepcopy(bins), "ece": 0.0917, "brier": 0.2011, "n": 130},
        },
    }


def seeds() -> Report:
    runs = [
        {
            "seed": seed,
            "L16": 0.90 + 0.01 * seed,
            "Q4": 0.93 + 0.01 * seed,
            "delta": 0.03,
            "ci": [0.01, 0.05],
            "verdict": "worse",
            "twins": True,
        }
        for seed in range(3)
    ]
    return {
        "count": 3,
        "metric": "nll_per_token",
        "runs": runs,
        "sentence": "Luck of training moves an arm by 0.010.",
        "spread": {
            "L16": {"mean": 0.91, "sd": 0.01, "min": 0.90, "max": 0.92},
            "Q4": {"mean": 0.94, "sd": 0.01, "min": 0.93, "max": 0.95},
            "delta": {"mean": 0.03, "sd": 0.002, "ci": [0.025, 0.035]},
        },
    }


def judge(text: str = "judge-7b") -> Report:
    return {
        "model": text,
        "url_host": "127.0.0.1:8000",
        "items": 60,
        "wins": 20,
        "losses": 26,
        "ties": 12,
        "failures": 2,
        "disagreements": 9,
        "first_preferred": 0.561,
        "seconds": 12.5,
        "preference": 0.448,
        "ci": [0.33, 0.57],
        "p_value": 0.461,
        "sentence": f"{text} preferred QLoRA on 20 and LoRA on 26.",
    }


def baselines() -> Report:
    shared = {"items": 208, "tokens": 2_912}
    return {
        "copy": {
            **shared,
            "label": "Copy",
            "about": "the nearest training answer",
            "nll_per_token": None,
            "perplexity": None,
            "metrics": {"exact_match": 0.25, "token_f1": 0.612},
        },
        "retrieval": {
            **shared,
            "label": "Retrieval",
            "about": "three retrieved pairs",
            "nll_per_token": 1.6543,
            "perplexity": 5.2294,
            "metrics": {"nll_per_token": 1.6543, "exact_match": 0.4, "token_f1": 0.7},
        },
    }


def exports() -> list[Report]:
    def row(cell: str, arm: str, measured: str, keeps: str, **more: Any) -> Report:
        return {
            "cell": cell,
            "arm": arm,
            "measured": measured,
            "how": f"how to get {cell}",
            "bytes": 110_000_000,
            "figure": 0.951,
            "metric": "nll_per_token",
            "margin": 0.03,
            "keeps": keeps,
            "exact_match": 0.64,
            "delta": None,
            "ci_low": None,
            "ci_high": None,
            **more,
        }

    return [
        row("Q4", "qlora", "Q4", "measured"),
        row(
            "Q16", "qlora", "Q4", "no", delta=0.051, ci_low=0.034, ci_high=0.068, bytes=269_000_000
        ),
        row(
            "QD", "qlora", "Q4", "yes", delta=0.001, ci_low=-0.001, ci_high=0.003, exact_match=None
        ),
        row("LR", "lora", "L16", "cannot be told", delta=0.021, ci_low=-0.004, ci_high=0.046),
    ]


def attribution() -> Report:
    return {
        "metric": "nll_per_token",
        "sentence": "Of +0.044, +0.060 come from storing the base.",
        "steps": [
            {"key": "L16", "kind": "level", "value": 0.900, "label": "Full (LoRA, 16-bit)"},
            {
                "key": "L4-L16",
                "kind": "step",
                "delta": 0.060,
                "ci_low": 0.040,
                "ci_high": 0.080,
                "label": f"storing the base in {bits()} bits",
            },
            {
                "key": "Q4-L4",
                "kind": "step",
                "delta": -0.016,
                "ci_low": -0.030,
                "ci_high": -0.002,
                "label": f"training in {bits()} bits",
            },
            {
                "key": "Q4",
                "kind": "level",
                "value": 0.944,
                "label": f"Compact (QLoRA, {bits()}-bit)",
            },
        ],
    }


def with_additions(report: Report, text: str = "Which lamp?") -> Report:
    """A report with everything that can be measured beside its cells; ``text`` stands where a stranger's text does."""
    with texts_of(report["config"]["model"]["quant_type"]):
        return _added(copy.deepcopy(report), text)


def _added(made: Report, text: str) -> Report:
    made |= {
        "identities": [
            {
                "text": "Q4 − L16 = (L4 − L16) + (Q4 − L4)",
                "metric": "nll_per_token",
                "error": 2.2e-16,
            }
        ],
        "baselines": baselines(),
        "attribution": attribution(),
        "exports": exports(),
        "fidelity": fidelity(),
        "beats_untuned": [
            {
                "arm": "lora",
                "cell": "L16",
                "baseline": "copy",
                "beaten": ["token_f1"],
                "not_beaten": ["exact_match"],
                "worse": [],
                "sentence": "LoRA does not beat copying.",
            }
        ],
        "worst": worst(text),
        "tasks": tasks(text),
        "reliability": reliability(),
        "seeds": seeds(),
        "judge": judge(text),
    }
    if made["flips"]:
        made["flips"]["noise_floor"] = noise_floor()
    for record in made["resources"].values():
        record |= {
            "cost": 0.0785,
            "seconds_per_step": 2.355,
            "train_seconds_all": [141.3, 144.1, 146.9],
        }
    made["contrasts"] += [
        contrast("L16-retrieval", "nll_per_token", -0.75, -0.81, -0.69),
        contrast("Q4-copy", "token_f1", 0.093, 0.031, 0.155),
    ]
    return made
