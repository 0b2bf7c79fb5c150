"""Extra lm-eval tasks: the general knowledge task, and tasks that a study names."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.atomic_io import write_json, write_jsonl
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m
from evals.tasks.general_knowledge import FOLDER, TASK

if TYPE_CHECKING:
    from evals.lm_eval_model import StudyLM


class ExtraTasks:
    """The extra tasks of a study, loaded before scoring so that a wrong name fails at once.

    ``documents`` has the number of documents of each task, summed over its subtasks.

    Raises:
        EvaluationError: lm-eval has no such task, or its data is not available.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.documents: dict[str, int] = {}
        if not self.names:
            return
        from lm_eval.tasks import TaskManager

        # the error below reports an unreachable hub; the client would log a dozen warnings about its retries
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self._manager = TaskManager(
            include_path=str(FOLDER), include_defaults=set(self.names) != {TASK}
        )
        known = set(self._manager.all_tasks)
        for name in self.names:
            if name not in known:  # lm-eval would open it as a YAML file and run its functions
                raise EvaluationError(
                    m("lm-eval has no task {name!r}", name=name),
                    where="eval.tasks",
                    remedy=m(
                        "'lm-eval ls tasks' lists the names; files are not accepted, because they can run code"
                    ),
                )
            try:
                with _empty_folder():
                    loaded = self._manager.load([name])["tasks"]
                    self.documents[name] = sum(
                        len(task.test_docs() if task.has_test_docs() else task.validation_docs())
                        for task in loaded.values()
                    )
            except Exception as error:  # each task loads its data in its own way
                # a KeyError would be within quotes
                quoted = isinstance(error, KeyError) and error.args
                text = str(error.args[0] if quoted else error).strip()
                what = text.splitlines()[0] if text else type(error).__name__
                raise EvaluationError(
                    m("the lm-eval task {name!r} cannot be run: {what}", name=name, what=what),
                    where="eval.tasks",
                    remedy=m(
                        "Most tasks download their data from a hub; remove the task from {eval.tasks} to continue "
                        "without it"
                    ),
                ) from error

    def run(
        self, name: str, lm: StudyLM, folder: Path, inputs: Mapping[str, Any], seed: int
    ) -> None:
        """Run a task on a cell and write ``<name>.jsonl``, one line per document, and its figures, ``<name>.json``."""
        from lm_eval import simple_evaluate

        with _empty_folder():
            results = simple_evaluate(
                lm,
                tasks=[name],
                task_manager=self._manager,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                verbosity="WARNING",
            )
        assert results is not None  # only other ranks of a distributed run get nothing
        several = len(results["samples"]) > 1
        lines = [
            _document(part, sample, several=several)
            for part, samples in results["samples"].items()
            for sample in samples
            if sample["filter"] == samples[0]["filter"]
        ]
        write_jsonl(folder / f"{name}.jsonl", lines)
        figures = {task: _numbers(values) for task, values in results["results"].items()}
        record = {
            "task": name,
            "documents": len(lines),
            "results": figures,
            "versions": results["versions"],
            "inputs": dict(inputs),
        }
        write_json(folder / f"{name}.json", record)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, (int, float))}


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    """Run in an empty folder, because ``evaluate.load`` runs a script with the metric's name in the current folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


def _document(part: str, sample: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    answers = sample["filtered_resps"]
    pairs = [answer for answer in answers if isinstance(answer, (tuple, list)) and len(answer) == 2]
    likelihoods = [float(likelihood) for likelihood, _ in pairs]
    kept = (str, int, float, list)
    return {
        "doc_id": f"{part}/{sample['doc_id']}" if several else sample["doc_id"],
        "metrics": _numbers({name: sample.get(name) for name in sample["metrics"]}),
        "document": {key: value for key, value in sample["doc"].items() if isinstance(value, kept)},
        "target": sample["target"],
        "likelihoods": likelihoods if len(likelihoods) == len(answers) else [],
        "answer": None if likelihoods else str(answers[0]),
    }
