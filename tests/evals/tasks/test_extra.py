"""Tasks beyond the held-out set: what is said of one that cannot be run.

The retention questions, and that lm-eval reads and scores them without a network, from any folder.
"""

import logging
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval import evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from assistant_builder.errors import EvaluationError
from evals.tasks.extra import ExtraTasks
from evals.tasks.general_knowledge import FOLDER, TASK
from evals.tasks.general_knowledge.documents import read_questions


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("Spec 'x' is not registered"), "cannot be run: Spec 'x' is not registered. "),
        (
            ConnectionError("Couldn't reach 'owner/data' on the Hub\nand much more"),
            "reach 'owner/data' on the Hub. ",
        ),
        (ValueError(""), "cannot be run: ValueError. "),
    ],
)
def test_a_task_that_cannot_be_run_is_reported_in_one_line(error, said, monkeypatch, caplog):
    def load(self: TaskManager, names: list[str]) -> Any:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s")
        raise error

    monkeypatch.setattr(TaskManager, "load", load)
    with pytest.raises(EvaluationError) as caught:
        ExtraTasks([TASK])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "eval.tasks" in str(caught.value)
    assert not caplog.records, "what the hub's client says of its retries"


def test_the_projects_own_task_is_counted_before_it_is_run():
    assert ExtraTasks([TASK]).documents == {TASK: len(read_questions())}
    assert ExtraTasks([]).documents == {}


QUESTIONS = read_questions()


def test_every_question_has_four_different_choices_and_a_key():
    assert len(QUESTIONS) >= 160
    for row in QUESTIONS:
        assert list(row) == ["question", "choices", "answer", "area"]
        assert row["question"].endswith("?") and row["question"] == row["question"].strip()
        assert len({choice.casefold() for choice in row["choices"]}) == 4
        assert all(choice and choice == choice.strip() for choice in row["choices"])
        assert row["answer"] in range(4)


def test_no_question_is_asked_twice():
    assert max(Counter(row["question"].casefold() for row in QUESTIONS).values()) == 1


def test_no_place_and_no_length_gives_the_answer_away():
    for area in {row["area"] for row in QUESTIONS}:
        places = Counter(row["answer"] for row in QUESTIONS if row["area"] == area)
        # four questions of each area have their answer at each place
        assert set(places.values()) == {4}, area
    lengths = [
        (
            len(row["choices"][row["answer"]]),
            [len(c) for i, c in enumerate(row["choices"]) if i != row["answer"]],
        )
        for row in QUESTIONS
    ]
    # a quarter each would be chance
    assert sum(right > max(others) for right, others in lengths) / len(QUESTIONS) < 0.25
    assert sum(right < min(others) for right, others in lengths) / len(QUESTIONS) < 0.25


def test_the_files_are_packaged():
    root = Path(__file__).resolve().parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "package-data"
    ]["*"]
    needed = [path for path in FOLDER.iterdir() if path.suffix in (".yaml", ".jsonl")]
    assert {path.name for path in needed} == {"ab_retention.yaml", "questions.jsonl"}
    assert all(any(path.match(pattern) for pattern in patterns) for path in needed)


def test_lm_eval_scores_the_task_offline_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    right = {
        f"Question: {row['question']}\nAnswer:": f" {row['choices'][row['answer']]}"
        for row in QUESTIONS
    }

    class Leaning(LM):
        """Gives every character the log-likelihood −1, and those of the right answer nine tenths of that."""

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            pairs = [request.args for request in requests]
            return [
                (-(len(text) - 1) * (0.9 if right[prompt] == text else 1.0), False)
                for prompt, text in pairs
            ]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any) -> list[str]:
            raise NotImplementedError

    tasks = TaskManager(include_path=str(FOLDER), include_defaults=False).load([TASK])
    results = evaluate(Leaning(), tasks, bootstrap_iters=0, log_samples=True)
    assert results is not None
    scores = results["results"][TASK]
    assert scores["sample_len"] == len(QUESTIONS)
    assert scores["acc_norm,none"] == 1.0
    likeliest = [
        max(range(4), key=lambda i: -len(row["choices"][i]) * (0.9 if i == row["answer"] else 1.0))
        == row["answer"]
        for row in QUESTIONS
    ]
    assert scores["acc,none"] == pytest.approx(sum(likeliest) / len(QUESTIONS))
    assert 0.25 < scores["acc,none"] < 1.0
    sample = results["samples"][TASK][0]
    assert sample["doc"] == QUESTIONS[sample["doc_id"]]
    assert len(sample["filtered_resps"]) == 4
