"""Score every cell of a study on its held-out items, through lm-eval; what is done is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.errors import EvaluationError
from assistant_builder.files import write_json, write_jsonl
from assistant_builder.models.catalog import resolve
from assistant_builder.models.fetching import fetch
from assistant_builder.models.prompts import Prompter
from assistant_builder.study import Progress, Study
from evals.cells import LoadedCell, load_cells
from evals.declining import declined
from evals.metrics import ANSWER_METRICS
from evals.tasks import build_items, heldout_pairs, write_tasks

if TYPE_CHECKING:
    from evals.harness import StudyLM


class _Clock:
    """Tells how far the evaluation is, and stops it between two batches when asked."""

    def __init__(self, study: Study, total: int) -> None:
        self._study, self._total, self._done = study, total, 0
        self._began = time.monotonic()
        self.message = "Loading the base model"
        self.tick(0)

    def tick(self, items: int) -> None:
        """Count ``items`` more as done."""
        self._done += items
        eta = None
        if self._done:
            eta = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        self._study.write_progress("evaluate", Progress(self._done, self._total, "scores", self.message, eta))
        self._study.raise_if_cancelled()


def score_study(study: Study) -> Iterable[Path]:
    """Score the cells that are not scored yet.

    Returns:
        The files made.

    Raises:
        EvaluationError: A cell of the config is unknown, or no held-out item is left.
        Cancelled: The user asked for it; finished cells are kept.
    """
    config = study.config
    ref = resolve(config.model.base, trust_remote_code=config.model.trust_remote_code)
    folder = fetch(ref, revision=config.model.revision, trust_remote_code=config.model.trust_remote_code)
    prompter = Prompter.load(folder)
    items = build_items(heldout_pairs(study), prompter)
    tasks = write_tasks(study, items)
    todo = [cell for cell in config.eval.cells if not (study.cell_folder(cell) / "scores.json").exists()]
    clock = _Clock(study, len(todo) * len(items) * (3 if config.eval.similarity else 2))
    similarity = _Similarity(clock, [item["reference"] for item in items]) if config.eval.similarity and todo else None
    for cell in load_cells(study, folder, todo):
        samples, scores = _score_cell(study, cell, prompter, items, tasks, clock, similarity)
        write_jsonl(study.cell_folder(cell.spec.name) / "samples.jsonl", samples)
        write_json(study.cell_folder(cell.spec.name) / "scores.json", scores)
    return [
        study.cell_folder(cell) / name for cell in config.eval.cells for name in ("samples.jsonl", "scores.json")
    ]


class _Similarity:
    """Cosine of answer and reference by all-MiniLM-L6-v2; the references are embedded once."""

    def __init__(self, clock: _Clock, references: Sequence[str]) -> None:
        from assistant_builder.models.embedding import Embedder

        clock.message = "Loading the sentence embedder"
        clock.tick(0)
        self._embedder = Embedder.load()
        self._references = self._embedder.encode(references)

    def of(self, answers: Sequence[str]) -> list[float]:
        """Cosines in [-1, 1], one an answer, in the order of the references."""
        vectors = self._embedder.encode(answers)
        return [float(value) for value in (vectors * self._references).sum(axis=1)]


def _score_cell(
    study: Study, cell: LoadedCell, prompter: Prompter, items: Sequence[Mapping[str, Any]],
    tasks: tuple[Path, str, str], clock: _Clock, similarity: _Similarity | None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples and scores of one cell."""
    from evals.harness import StudyLM

    config, name = study.config.eval, cell.spec.name
    folder, nll_task, generation_task = tasks
    lm = StudyLM(
        cell.model, prompter, own_tasks=(nll_task, generation_task), batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens, tick=clock.tick,
    )
    seconds = {"load": cell.load_seconds}
    clock.message = f"{name}: likelihood of the reference answers"
    began = time.monotonic()
    nll = _run(lm, [nll_task], folder, study)
    seconds["nll"] = time.monotonic() - began
    clock.message = f"{name}: answering the held-out questions"
    began = time.monotonic()
    generated = _run(lm, [generation_task, *config.tasks], folder, study)
    seconds["generate"] = time.monotonic() - began
    answers = {sample["doc"]["item"]: sample["resps"][0][0] for sample in generated["samples"][generation_task]}
    texts = [answers[item["item"]] for item in items]
    cosines: Sequence[float | None] = [None] * len(items)
    if similarity is not None:
        clock.message = f"{name}: similarity of answer and reference"
        began = time.monotonic()
        cosines = similarity.of(texts)
        seconds["similarity"] = time.monotonic() - began
        clock.tick(len(items))
    metrics = {sample["doc"]["item"]: sample for sample in generated["samples"][generation_task]}
    samples = [
        _sample(item, text, metrics[item["item"]], lm, cosine)
        for item, text, cosine in zip(items, texts, cosines, strict=True)
    ]
    write_json(study.cell_folder(name) / "lm_eval.json", {
        "results": {**nll["results"], **generated["results"]}, "versions": {**nll["versions"], **generated["versions"]},
        "n-samples": {**nll["n-samples"], **generated["n-samples"]},
    })
    return samples, _scores(cell, samples, seconds, config.batch_size, generated["results"], config.tasks)


def _run(lm: StudyLM, tasks: list[str], folder: Path, study: Study) -> dict[str, Any]:
    """Have lm-eval run tasks on a cell, with every sample kept and no bootstrap of its own (it would be unpaired)."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    extra = [task for task in tasks if not task.startswith(f"{study.name}_")]
    try:
        results = simple_evaluate(
            lm, tasks=tasks, task_manager=TaskManager(include_path=str(folder), include_defaults=bool(extra)),
            bootstrap_iters=0, log_samples=True, random_seed=study.config.eval.seed, verbosity="WARNING",
        )
    except (KeyError, ValueError, ConnectionError, FileNotFoundError) as error:
        if not extra:
            raise
        raise EvaluationError(
            f"lm-eval cannot run {', '.join(extra)}: {error}", where="eval.tasks",
            remedy="Check the names with 'lm-eval ls tasks'; most tasks fetch their data from a hub",
        ) from error
    assert results is not None  # only other ranks of a distributed run get nothing
    return dict(results)


def _sample(
    item: Mapping[str, Any], answer: str, generated: Mapping[str, Any], lm: StudyLM, cosine: float | None
) -> dict[str, Any]:
    target = lm.targets[(item["prompt"], item["target"])]
    metrics = {"nll_per_token": target.nll / target.tokens, **{name: generated[name] for name in ANSWER_METRICS}}
    if cosine is not None:
        metrics["similarity"] = cosine
    return {
        **{key: item[key] for key in ("item", "row", "turn", "cluster", "answerable", "question")},
        "prompt": item["messages"],
        "reference": item["reference"],
        "answer": answer,
        "nll": target.nll,
        "tokens": target.tokens,
        "mean_probability": target.mean_probability,
        "metrics": metrics,
        "declined": declined(answer),
    }


def _scores(
    cell: LoadedCell, samples: Sequence[Mapping[str, Any]], seconds: Mapping[str, float], batch_size: int,
    results: Mapping[str, Any], extra: Sequence[str],
) -> dict[str, Any]:
    tokens = sum(sample["tokens"] for sample in samples)
    nll = sum(sample["nll"] for sample in samples) / tokens
    means = {name: sum(sample["metrics"][name] for sample in samples) / len(samples) for name in samples[0]["metrics"]}
    answerable = [sample for sample in samples if sample["answerable"]]
    unanswerable = [sample for sample in samples if not sample["answerable"]]
    return {
        "cell": cell.spec.name,
        "meaning": cell.spec.meaning,
        "base": cell.spec.base,
        "adapter": cell.spec.adapter,
        "compute_dtype": cell.compute_dtype,
        "base_bytes": cell.base_bytes,
        "items": len(samples),
        "tokens": tokens,
        "nll_per_token": nll,
        "perplexity": math.exp(min(nll, 700.0)),  # beyond that a float overflows
        "metrics": {**means, "nll_per_token": nll},
        "declining": {
            "answerable_items": len(answerable),
            "false_declines": sum(sample["declined"] for sample in answerable),
            "unanswerable_items": len(unanswerable),
            "declined": sum(sample["declined"] for sample in unanswerable),
        },
        "batch_size": batch_size,
        "seconds": dict(seconds),
        "tasks": {task: results[task] for task in extra if task in results},
    }
