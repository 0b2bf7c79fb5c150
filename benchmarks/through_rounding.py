"""``python -m benchmarks.through_rounding STUDY.yaml``: what training through the rounding of a file wins back.

For each seed three assistants are trained: LoRA, the arm ``qat`` that continues it through the rounding of
``train.qat_type``, and a control that continues it for as many steps without. Their GGUF files answer the held-out
questions in llama.cpp. Printed are scores and differences with 95 % intervals, whose units are the facts, over the mean
of the seeds: right answers, or with ``--metric token_f1`` the words in common with the reference answer, for answers
that are too long to be given word by word. ``--variant NAME`` trains the arm in one of the ways that were tried and are
not the product's (:mod:`benchmarks.rounding_variants`). ``--set KEY=VALUE`` changes settings of the study (they answer
from memory without ``approaches=grounded``), ``--json`` prints one JSON document.

With NF4, which llama.cpp does not have, the values of NF4 are written to a 16-bit file.

A study that exists is not trained again, so that the command can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np

from assistant_builder.arms import LORA, QAT
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.child_process import configure_libraries
from assistant_builder.config import StudyConfig
from assistant_builder.config.study_config import load_config
from assistant_builder.data import load_split
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.fetch import fetch
from assistant_builder.runner.data_steps import embed_data, prepare_data
from assistant_builder.study import Study
from assistant_builder.study.layout import studies_folder
from assistant_builder.study.limits import answer_limit
from evals.work_items import evenly_spaced

WIDE = "BF16"
RESAMPLES = 4000
METRICS = ("exact_match", "token_f1")
VARIANT_NAMES = ("activations", "soft", "fitted", "faster", "slower")
CHECKED_ITEMS = 50
"""Questions on whose answers the loss of the file is compared with that of training."""
COLUMNS = {
    "wide": "LoRA, 16 bits",
    "afterwards": "LoRA, rounded afterwards",
    "weighted": "the same, importance matrix",
    "control": "continued without rounding, 16 bits",
    "control rounded": "the same, rounded afterwards",
    "through": "continued through the rounding",
}
"""What is scored → its name in the table."""


def trained(config: StudyConfig, source: Path, seed: int, variant: str | None) -> dict[str, Study]:
    """The studies of a seed: that of LoRA and ``qat``, and copies whose ``qat`` is the control or a variant."""
    from assistant_builder.training.train import train_arm

    studies: dict[str, Study] = {}
    for kind in ("through", "control", *([variant] if variant else [])):
        name = f"{config.name}-{seed}" + ("" if kind == "through" else f"-{kind}")
        folder = studies_folder() / name
        if studies and not folder.exists():
            shutil.copytree(
                studies["through"].folder,
                folder,
                ignore=shutil.ignore_patterns(QAT.name, "formats", f"answers-{QAT.name}-*"),
            )
        study = (
            Study.open(name)
            if folder.exists()
            else Study.create(
                config.with_changes({"name": name, "train.seed": config.train.seed + seed}), source
            )
        )
        studies[kind] = study
        if not (study.folder / "data" / "split.json").is_file():
            list(prepare_data(study) or ())
        if study.config.grounded and not study.embedding_file.is_file():
            list(embed_data(study))
        for arm in (LORA.name, QAT.name):
            if (study.arm_folder(arm) / "adapter").is_dir():
                continue
            with trained_as(kind), redirect_stdout(sys.stderr):
                train_arm(study, arm)
    return studies


def trained_as(kind: str) -> AbstractContextManager[Any]:
    """The context in which the arm is trained: the product's, the control's or that of a variant."""
    if kind == "control":
        from assistant_builder.models.lora_layers import dequantize_to_compute_dtype

        # as the trainer does for arms that are not rounded, so that a step is as fast as one of LoRA
        return patch(
            "assistant_builder.models.lora_layers.train_through_rounding",
            lambda model, _: dequantize_to_compute_dtype(model, model.config.dtype, training=True),
        )
    if kind == "through":
        return nullcontext()
    from benchmarks.rounding_variants import VARIANTS

    return VARIANTS[kind]()


def items_of(study: Study) -> tuple[list[dict[str, Any]], ChatTokenizer]:
    """The held-out questions with an answer, and the tokenizer."""
    from assistant_builder.retrieval.retriever import Retriever
    from evals.tasks.held_out import build_items, write_tasks

    prompter = ChatTokenizer.load(
        fetch(resolve(study.config.model.base)), study.record_template_date()
    )
    retriever = Retriever.load(study, prompter, served=False) if study.config.grounded else None
    items = build_items(load_split(study.folder / "data", "heldout"), prompter, retriever)
    write_tasks(study, items)  # export reads them
    return [item for item in items if item["answerable"]], prompter


def written(study: Study, arm: str, type: str) -> Path:
    """The file of an arm that was trained without a run."""
    from assistant_builder.export.gguf import GgufFiles

    summary = read_json(study.arm_folder(arm) / "summary.json")
    with patch("assistant_builder.export.gguf.require_trained", lambda *_: summary):
        return GgufFiles(study, arm).ensure([type])[type]


def answers(
    study: Study, arm: str, type: str, *, weighted: bool = False, values: str = ""
) -> list[str]:
    """What a file answers to each question in llama.cpp.

    ``weighted``: with an importance matrix. ``values``: the format whose values the linear layers have beforehand.
    """
    from assistant_builder.inference.llamacpp import LlamaServer
    from assistant_builder.models import lora_layers
    from assistant_builder.models.rounding import rounded

    known = (
        study.folder
        / f"answers-{arm}-{type}{'-weighted' * weighted}{'-nf4' * (values == 'NF4')}.json"
    )
    if known.is_file():
        found: list[str] = read_json(known)
        return found
    merge = lora_layers.merge

    def merged(adapted: Any) -> Any:
        model = merge(adapted)
        for layer in model.modules():
            if values and isinstance(layer, lora_layers.CastOnUseLinear):
                layer.weight.data.copy_(rounded(layer.weight.data, values))
        return model

    items, prompter = items_of(study)
    shutil.rmtree(study.formats_folder, ignore_errors=True)
    study.write_config(study.config.with_changes({"formats.importance": weighted}))
    study = Study.open(study.folder.name)
    with patch.object(lora_layers, "merge", merged):
        path = written(study, arm, type)
    prompts = [prompter.split_ids(item["prompt"], item["target"])[0] for item in items]
    limit = answer_limit(study)
    with LlamaServer(path, context=max(map(len, prompts)) + limit + 1, slots=16) as server:
        answers = dict(server.complete_all(prompts, limit, stop_ids=prompter.stop_ids))
    found = [prompter.decode(answers[place].ids) for place in range(len(prompts))]
    write_json(known, found)
    return found


def file_loss(study: Study) -> dict[str, float]:
    """Loss of reference answers in nats per token: of the model as trained in PyTorch, and of its file in llama.cpp.

    llama.cpp gives no probabilities of a prompt, so each token is asked for by itself.
    """
    import torch

    from assistant_builder.inference.llamacpp import GREEDY, LlamaServer
    from assistant_builder.models.loading import load_arm

    model, prompter = load_arm(study, QAT.name)
    items = [
        prompter.split_ids(item["prompt"], item["target"])
        for item in evenly_spaced(items_of(study)[0], CHECKED_ITEMS)
    ]
    found, tokens = {"training": 0.0, "file": 0.0}, sum(len(target) for _, target in items)
    with torch.no_grad():
        for prompt, target in items:
            logits = model(input_ids=torch.tensor([[*prompt, *target]])).logits[
                0, len(prompt) - 1 : -1
            ]
            found["training"] -= float(
                torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(target)[:, None]).sum()
            )
    vocabulary = int(model.config.vocab_size)
    path = written(study, QAT.name, study.config.train.qat_type)
    with LlamaServer(
        path, context=max(len(prompt) + len(target) for prompt, target in items) + 1
    ) as server:
        for prompt, target in items:
            for place, token in enumerate(target):
                for count in (100, vocabulary):
                    asked = server._body(
                        [*prompt, *target[:place]], 1, logprobs=True, sampling=GREEDY
                    )
                    reply = server._post("/completion", {**asked, "n_probs": count})
                    likeliest = {
                        each["id"]: each["logprob"]
                        for each in reply["completion_probabilities"][0]["top_logprobs"]
                    }
                    if token in likeliest:
                        found["file"] -= likeliest[token]
                        break
    return {name: loss / tokens for name, loss in found.items()}


def scores(
    config: StudyConfig, source: Path, seed: int, metric: str, variant: str | None
) -> dict[str, list[float]]:
    """The score of each answer of a seed, by column."""
    from evals.metrics import text

    studies, values = (
        trained(config, source, seed, variant),
        "NF4" if config.train.qat_type == "NF4" else "",
    )
    one, control, type = (
        studies["through"],
        studies["control"],
        WIDE if values else config.train.qat_type,
    )
    found = {
        "wide": answers(one, LORA.name, WIDE),
        "afterwards": answers(one, LORA.name, type, values=values),
    }
    if not values:
        found["weighted"] = answers(one, LORA.name, type, weighted=True)
    found |= {
        "control": answers(control, QAT.name, WIDE),
        "control rounded": answers(control, QAT.name, type, values=values),
    }
    with trained_as(variant or "through"):
        found["through"] = answers(
            studies[variant or "through"],
            QAT.name,
            type,
            values=type if variant == "fitted" else values,
        )
    references, score = [item["reference"] for item in items_of(one)[0]], getattr(text, metric)
    return {
        name: [score(each, reference) for each, reference in zip(given, references, strict=True)]
        for name, given in found.items()
    }


def interval(differences: Any, clusters: Sequence[str]) -> tuple[float, float]:
    """The 95 % percentile interval of a mean over items, by resampling clusters."""
    names = sorted(set(clusters))
    sums = np.array(
        [
            [differences[[each == name for each in clusters]].sum(), clusters.count(name)]
            for name in names
        ]
    )
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5])
    return float(low), float(high)


def summary(
    seeds: Sequence[Mapping[str, list[float]]],
    clusters: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The total score of each seed, differences over the mean of the seeds, and the share that is won back.

    The share is None where rounding afterwards loses nothing.
    """
    means = {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}
    pairs = [
        ("through", "afterwards"),
        ("through", "wide"),
        ("through", "control rounded"),
        ("through", "control"),
    ]
    won = {}
    for rival, wide, rounded in (
        ("LoRA", "wide", "afterwards"),
        ("control", "control", "control rounded"),
    ):
        lost = float((means[wide] - means[rounded]).mean())
        won[rival] = float((means["through"] - means[rounded]).mean()) / lost if lost > 0 else None
    return {
        "items": len(clusters),
        "score": {name: [round(sum(seed[name]), 1) for seed in seeds] for name in means},
        "differences": {
            f"{one} - {other}": {
                "delta": float((means[one] - means[other]).mean()),
                "ci": interval(means[one] - means[other], list(clusters)),
            }
            for one, other in pairs
        },
        "won_back": won,
        "step_seconds": dict(seconds),
    }


def step_seconds(study: Study, arm: str) -> float:
    """Seconds of an optimizer step, validations and checkpoints left out."""
    found = read_json(study.arm_folder(arm) / "summary.json")
    return float(found["tokens"] / found["tokens_per_second"] / found["steps"])


def report(found: Mapping[str, Any], kind: str, metric: str = METRICS[0]) -> str:
    """The results as text."""
    unit = "right answers" if metric == METRICS[0] else f"sum of {metric}"
    lines = [f"{unit} of {found['items']}, {kind}, by seed:"]
    lines += [
        f"  {COLUMNS[name]:42s} {', '.join(f'{each:g}' for each in totals):22s} mean {mean(totals):.1f}"
        for name, totals in found["score"].items()
    ]
    lines += [
        f"  {name}: {100 * each['delta']:+.1f} points ({100 * each['ci'][0]:+.1f} to {100 * each['ci'][1]:+.1f})"
        for name, each in found["differences"].items()
    ]
    lines += [
        f"  won back of what rounding afterwards loses, against {name}: "
        + ("it loses nothing" if share is None else f"{100 * share:.0f} %")
        for name, share in found["won_back"].items()
    ]
    seconds = found["step_seconds"]
    if "validation" in found:
        losses = ", ".join(f"{each:.4f}" for each in found["validation"])
        lines.append(f"  validation loss through the rounding: {losses}")
    if "loss" in found:
        lines.append(
            "  loss of {of} answers: {training:.4f} in training, {file:.4f} of the file in llama.cpp".format(
                of=CHECKED_ITEMS, **found["loss"]
            )
        )
    lines.append(
        f"  a step through the rounding takes {seconds['through'] / seconds['control']:.2f} times one without"
    )
    return "\n".join(lines)


def main() -> int:
    """Train, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANT_NAMES)
    parser.add_argument("--metric", choices=METRICS, default=METRICS[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    configure_libraries()
    changes = dict(text.split("=", 1) for text in options.changes)
    config = load_config(options.study).with_changes(
        {"approaches": ["memory"], "arms": [LORA.name, QAT.name], **changes}
    )
    config = config.with_changes(
        {"name": f"{config.name}-through-{config.train.qat_type.lower().replace('_', '-')}"}
    )
    source = options.study.parent / str(config.data.source)
    seeds = [
        scores(config, source, seed, options.metric, options.variant)
        for seed in range(options.seeds)
    ]
    first, ending = Study.open(f"{config.name}-0"), f"-{options.variant}" if options.variant else ""
    clusters = [str(item["cluster"] or item["row"]) for item in items_of(first)[0]]
    seconds = {
        kind: step_seconds(Study.open(f"{config.name}-0{suffix}"), QAT.name)
        for kind, suffix in (("through", ending), ("control", "-control"))
    }
    found = summary(seeds, clusters, seconds)
    found["validation"] = [
        read_json(
            Study.open(f"{config.name}-{seed}{ending}").arm_folder(QAT.name) / "summary.json"
        )["best_validation_loss"]
        for seed in range(options.seeds)
    ]
    if config.train.qat_type != "NF4" and not options.variant:
        found["loss"] = file_loss(first)
    print(
        json.dumps(found, indent=2)
        if options.json
        else report(found, config.train.qat_type, options.metric)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
