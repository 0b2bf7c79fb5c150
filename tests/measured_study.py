"""Synthetic results of the evaluation in addition to scored cells."""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses
from assistant_builder.study.steps import FORMATS, StepRecord
from evals.judge.pairwise import counts

Sample = dict[str, Any]
FIDELITY = {"B4-B16": 0.081, "L4-L16": 0.047, "Q4-Q16": 0.044, "Q4-L16": 0.069}
"""Pairs of ``evals/fidelity.json``, with a mean divergence in nats."""
KNOWN = {"B16": 0.62, "B4": 0.58, "L16": 0.57, "Q4": 0.53}
"""Share of the retention questions that each cell answers."""


def with_everything(study: Study, *, seeds: int = 1, judge: bool = True) -> Study:
    """Add baselines, noise floor, fidelity, the retention task, seeds and a judge."""
    for add in (with_baselines, with_noise, with_fidelity, with_tasks):
        add(study)
    with_seeds(study, seeds)
    return with_judge(study) if judge else study


def with_what_one_arm_has(study: Study) -> Study:
    """Add the measurements of a study with one arm."""
    if study.config.eval.baselines:
        with_baselines(study)
    with_tasks(study)
    return with_seeds(study, study.config.seeds)


def samples_of(study: Study, cell: str) -> list[Sample]:
    """The samples of a scored cell."""
    return read_jsonl(study.cell_folder(cell) / "samples.jsonl")


def write_scored(study: Study, name: str, samples: list[Sample], **more: Any) -> None:
    """Write ``samples.jsonl`` and ``scores.json`` into ``evals/<name>``."""
    tokens = sum(sample["tokens"] for sample in samples)
    losses = [sample["nll"] for sample in samples]
    nll = None if None in losses else sum(losses) / tokens
    names = {metric for sample in samples for metric in sample["metrics"]} - {"nll_per_token"}
    values = {
        metric: [s["metrics"][metric] for s in samples if metric in s["metrics"]]
        for metric in sorted(names)
    }
    write_jsonl(study.cell_folder(name) / "samples.jsonl", samples)
    write_json(
        study.cell_folder(name) / "scores.json",
        {
            "cell": name.rsplit("/", 1)[-1],
            "items": len(samples),
            "tokens": tokens,
            "nll_per_token": nll,
            "perplexity": None if nll is None else math.exp(nll),
            "metrics": {metric: sum(found) / len(found) for metric, found in values.items()},
            "batch_size": 32,
            **more,
        },
    )


def _scored(
    sample: Mapping[str, Any], answer: str, right: bool, partial: float
) -> dict[str, float]:
    """Answer metrics of the kinds that the sample carries."""
    if answer == sample["answer"]:
        return {name: value for name, value in sample["metrics"].items() if name != "nll_per_token"}
    return {
        name: float(right) if name in ("exact_match", "facts_kept") else 1.0 if right else partial
        for name in sample["metrics"]
        if name != "nll_per_token"
    }


def with_formats(study: Study, lost: Mapping[tuple[str, str], int]) -> Study:
    """Add scored GGUF files, by arm and type: the answers of L16, with as many of its right ones wrong.

    Each wrong answer also costs 2 nats of the reference's loss.
    """
    sizes = {"BF16": 271_000_000, "Q8_0": 145_000_000, "Q4_0": 92_000_000}
    for (arm, type), count in lost.items():
        samples = samples_of(study, "L16")
        right = [
            sample
            for sample in samples
            if sample["answerable"] and sample["metrics"]["exact_match"] == 1
        ]
        for sample in right[:: max(1, len(right) // count)][:count] if count else ():
            sample |= {"answer": "No.", "nll": sample["nll"] + 2}
            sample["metrics"] = {
                **dict.fromkeys(sample["metrics"], 0.0),
                "nll_per_token": sample["nll"] / sample["tokens"],
            }
        write_scored(
            study,
            f"formats/{arm}-{type}",
            samples,
            arm=arm,
            type=type,
            bytes=sizes[type],
            sha256="0" * 64,
            tensor_types={type: 211, "F32": 61},
            file=f"{study.name}-{arm}-{type}.gguf",
            tokens_per_second=88.0,
            first_token_seconds=0.21,
            load_seconds=0.6,
            resident_bytes=263_000_000,
            kl={"BF16": 0.0002, "Q8_0": 0.0011, "Q4_0": 0.0432}[type],
            kl_items=32,
        )
    study.write_step(StepRecord(FORMATS, state="succeeded", seconds=240.0))
    return study


def with_baselines(study: Study) -> Study:
    """Add the copy baseline, correct in one of four cases, and retrieval, better than that and worse than tuning."""
    luck = random.Random("baselines")
    tuned, untuned_cell = ("L16", "B16") if "lora" in study.config.arms else ("Q4", "B4")
    samples = samples_of(study, tuned)
    rows = samples_of(study, untuned_cell) or samples
    for name, hit, partial in (("copy", 0.25, 0.45), ("retrieval", 0.33, 0.5)):
        made = []
        for sample, untuned in zip(samples, rows, strict=True):
            right = luck.random() < hit
            answer = (
                sample["reference"]
                if right
                else "The green oil lamp of Brisk Haven has two blasts a minute."
            )
            per_token = 0.9 * untuned["nll"] / untuned["tokens"]
            metrics = _scored(
                {**sample, "answer": None}, answer, right, partial + luck.uniform(-0.2, 0.2)
            )
            neighbours = [
                {
                    "row": 300 + place,
                    "question": f"{sample['question']} (seen in training)",
                    "cosine": round(0.9 - 0.07 * place, 3),
                }
                for place in range(1 if name == "copy" else 3)
            ]
            made.append(
                {
                    **sample,
                    "answer": answer,
                    "declined": False,
                    "neighbours": neighbours,
                    "nll": None if name == "copy" else per_token * sample["tokens"],
                    "mean_probability": None if name == "copy" else math.exp(-per_token),
                    "metrics": metrics
                    if name == "copy"
                    else {"nll_per_token": per_token, **metrics},
                }
            )
        base = {} if name == "copy" or untuned_cell == "B16" else {"base": "4-bit"}
        write_scored(study, f"baselines/{name}", made, compute_dtype="bfloat16", **base)
    return study


def with_noise(study: Study, *, every: int = 90) -> Study:
    """Add scores with another batch size, in which one answer in ``every`` changes."""
    luck = random.Random("noise")
    for cell in ("L16", "Q4"):
        made = []
        for place, sample in enumerate(samples_of(study, cell), start=1):
            shift = luck.uniform(-0.008, 0.008)
            per_token = max(sample["nll"] / sample["tokens"] + shift, 0.001)
            answer, metrics = sample["answer"], _scored(sample, sample["answer"], True, 1.0)
            if place % every == 0:
                right = sample["answer"] != sample["reference"]
                answer = sample["reference"] if right else "It is the other one."
                metrics = _scored(sample, answer, right, 0.4)
            made.append(
                {
                    **sample,
                    "answer": answer,
                    "nll": per_token * sample["tokens"],
                    "metrics": {"nll_per_token": per_token, **metrics},
                }
            )
        write_scored(study, f"noise/{cell}", made, batch_size=7, compute_dtype="bfloat16")
    return study


def with_fidelity(study: Study) -> Study:
    """Add divergences per token that are consistent with the losses of the cells."""
    scored = {
        name
        for name in ("B16", "B4", "L16", "L4", "Q16", "Q4")
        if (study.cell_folder(name) / "scores.json").exists()
    }
    pairs = {name: mean for name, mean in FIDELITY.items() if set(name.split("-")) <= scored}
    losses = {
        cell: read_json(study.cell_folder(cell) / "scores.json")["nll_per_token"] for cell in scored
    }
    items = samples_of(study, "L16")
    tokens = sum(sample["tokens"] for sample in items)
    write_json(
        study.folder / "evals" / "fidelity.json",
        {
            "seconds": 41.5,
            "compute_dtype": "bfloat16",
            "pairs": [
                {
                    "name": name,
                    "candidate": name.split("-")[0],
                    "reference": name.split("-")[1],
                    "tokens": tokens,
                    "kl_mean": mean,
                    "kl_median": 0.22 * mean,
                    "kl_p99": 11.0 * mean,
                    "kl_max": 41.0 * mean,
                    "top1_agreement": 1 - 0.9 * mean,
                    "delta_nll": losses[name.split("-")[0]] - losses[name.split("-")[1]],
                }
                for name, mean in pairs.items()
            ],
        },
    )
    return study


def with_tasks(
    study: Study,
    task: str = "ab_retention",
    questions: int = 120,
    known: Mapping[str, float] | None = None,
) -> Study:
    """A multiple-choice task on the four cells; whoever knows less knows nothing that the others do not.

    Args:
        study: The study.
        task: Its name.
        questions: How many.
        known: Share that each cell knows.
    """
    for cell, share in (known or KNOWN).items():
        if not (study.cell_folder(cell) / "scores.json").exists():
            continue
        lines = []
        for number in range(questions):
            luck = random.Random(f"{task} {number}")
            right = luck.random() < share
            lines.append(
                {
                    "doc_id": number,
                    "metrics": {"acc": float(right), "acc_norm": float(right)},
                }
            )
        write_jsonl(study.cell_folder(cell) / "tasks" / f"{task}.jsonl", lines)
    return study


def with_failed_task(study: Study, task: str = "arc_easy") -> Study:
    """Add a task of the user without a score per document."""
    study.write_config(study.config.with_changes({"eval.tasks": [task]}))
    for cell in KNOWN:
        if (study.cell_folder(cell) / "scores.json").exists():
            write_jsonl(
                study.cell_folder(cell) / "tasks" / f"{task}.jsonl", [{"doc_id": 0, "metrics": {}}]
            )
    return study


def with_seeds(study: Study, count: int, move: Callable[[int, str], float] | None = None) -> Study:
    """Runs 2 … ``count`` of both arms.

    Args:
        study: The study.
        count: Training runs of each arm, the first included.
        move: By how much another seed moves a cell's loss, in nats per token; by run and cell.
    """
    for run in range(2, count + 1):
        for arm, cell in (("lora", "L16"), ("qlora", "Q4")):
            if arm not in study.config.arms:
                continue
            luck = random.Random(f"{run} {cell}")
            moved = luck.uniform(-0.02, 0.02) if move is None else move(run, cell)
            made = []
            for sample in samples_of(study, cell):
                per_token = max(
                    sample["nll"] / sample["tokens"] + moved + luck.gauss(0, 0.02), 0.001
                )
                made.append(
                    {
                        **sample,
                        "nll": per_token * sample["tokens"],
                        "metrics": {**sample["metrics"], "nll_per_token": per_token},
                    }
                )
            write_scored(study, f"seeds/{run}/{cell}", made, compute_dtype="bfloat16")
            for file in ("config.json", "summary.json"):
                path = study.arm_folder(arm) / file
                if path.exists():
                    record = read_json(path)
                    if "train_seconds" in record:
                        record["train_seconds"] *= 1 + 0.02 * run
                    write_json(study.arm_folder(f"{arm}-{run}") / file, record)
    return study


def with_judge(study: Study, *, items: int = 60, failures: int = 1, agree: float = 0.8) -> Study:
    """Verdicts of a judge that saw both orders.

    Args:
        study: The study.
        items: Items judged.
        failures: How many of them failed.
        agree: Share of the others on which the two orders agree; elsewhere the judge takes the answer shown first.
    """
    luck = random.Random("judge")
    lines = []
    for place, sample in enumerate(samples_of(study, "L16")[:items]):
        preferred, same = "Q4" if luck.random() < 0.44 else "L16", luck.random() < agree
        orders: list[dict[str, Any]] = []
        for first in ("L16", "Q4"):
            if place < failures and first == "Q4":
                orders.append(
                    {"first": first, "choice": None, "reply": "", "error": "no answer in 60 s"}
                )
            else:
                choice = "first" if first == preferred or not same else "second"
                orders.append(
                    {"first": first, "choice": choice, "reply": f"The {choice} one.", "error": None}
                )
        outcome = "failed" if place < failures else preferred if same else "tie"
        lines.append({"item": sample["item"], "orders": orders, "outcome": outcome, "seconds": 0.2})
    write_jsonl(study.folder / "evals" / "judge.jsonl", lines)
    write_json(
        study.folder / "evals" / "judge.json",
        {"model": "judge-7b", "url_host": "127.0.0.1:8000", **counts(lines)},
    )
    url = "http://127.0.0.1:8000/v1"
    allow_addresses([url])
    study.write_config(
        study.config.with_changes({"eval.judge_url": url, "eval.judge_model": "judge-7b"})
    )
    return study
