"""The held-out set as lm-eval tasks: what lm-eval reads from the folder, and how it scores."""

import importlib.util
import py_compile
from collections import defaultdict
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from assistant_builder.config import StudyConfig
from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from evals.tasks.held_out import (
    build_items,
    run_own_tasks,
    score_generation,
    score_nll,
    token_weighted_mean,
    write_tasks,
)


@pytest.fixture
def items(model_cache: Path) -> list[dict[str, object]]:
    talk = Pair(
        3,
        (
            Message("user", "Hi?"),
            Message("assistant", "Hello."),
            Message("user", "You?"),
            Message("assistant", "Fine."),
        ),
    )
    single = Pair(
        7, (Message("user", "Who rows?"), Message("assistant", "Otto rows.")), cluster="otto"
    )
    return build_items(
        [single, talk], ChatTokenizer.load(model_cache / "models" / "smollm2-135m-instruct")
    )


def test_an_item_is_one_assistant_turn(items):
    assert [item["item"] for item in items] == ["7", "3.1", "3.2"]
    assert [item["reference"] for item in items] == ["Otto rows.", "Hello.", "Fine."]
    # turns of one talk are not independent
    assert [item["cluster"] for item in items] == ["otto", "3", "3"]
    assert str(items[2]["prompt"]).endswith("You?<|im_end|>\n<|im_start|>assistant\n")
    assert items[0]["target"] == "Otto rows.<|im_end|>"


def test_lm_eval_reads_the_folder(items, tmp_path):
    study = Study.create(StudyConfig(name="ferry"))
    own = write_tasks(study, items)
    folder, nll, generation = own.folder, own.nll, own.generation
    assert (nll, generation) == ("ferry_nll", "ferry_gen")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    tasks = manager.load([nll, generation])["tasks"]
    loaded = {name: list(task.test_docs()) for name, task in tasks.items()}
    assert {name: [doc["item"] for doc in docs] for name, docs in loaded.items()} == {
        nll: ["7", "3.1", "3.2"],
        generation: ["7", "3.1", "3.2"],
    }
    task = tasks[nll]
    doc = loaded[nll][0]
    assert task.doc_to_choice(doc) == ["\nOtto rows.<|im_end|>", "\n"]
    assert task.doc_to_text(doc) + "\n" == items[0]["prompt"] == tasks[generation].doc_to_text(doc)


def test_scores_are_token_weighted():
    # of which 0.5 is the line break's
    first = score_nll({"tokens": 4}, [(-2.5, False), (-0.5, True)])["nll_per_token"]
    second = score_nll({"tokens": 1}, [(-3.0, False)])["nll_per_token"]
    assert token_weighted_mean([first, second]) == pytest.approx(1.0)
    doc = {"reference": "Otto rows.", "question": "Who rows?", "answerable": True, "messages": []}
    assert score_generation(doc, ["otto rows"])["exact_match"] == 1.0


class Answers(LM):
    """Answers everything alike, as the assistant would."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[tuple[str, str], float] = defaultdict(float)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["Otto rows."] * len(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def test_nothing_in_the_folder_of_a_study_is_run(items, tmp_path):
    study, mark = Study.create(StudyConfig(name="handed-on")), tmp_path / "code-ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef f(*_, **__): return {{}}\n"
    folder = study.evals_folder / "tasks"

    def plant() -> None:
        for inside in (folder, folder / "0", folder / "__pycache__", folder / ".hidden"):
            inside.mkdir(parents=True, exist_ok=True)
        for name in ("handed-on_nll", "handed-on_gen"):
            text = f"task: {name}\ncustom_dataset: !function evil.f\noutput_type: generate_until\n"
            for inside in (folder / "0", folder / ".hidden"):
                (inside / f"{name}.yaml").write_text(text)
                (inside / "evil.py").write_text(code)
        (folder / "datasets.py").write_text(code)
        (folder / "source.py").write_text(code)
        compiled = Path(importlib.util.cache_from_source(str(folder / "scoring.py")))
        py_compile.compile(
            str(folder / "source.py"),
            str(compiled),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )

    plant()
    tasks = write_tasks(study, items)
    left = {path.name for path in folder.iterdir()}
    plant()  # between writing and running, as another machine on a shared folder could
    scores, answers = run_own_tasks(Answers(), tasks, items, seed=0)
    assert len(scores) == len(items) and answers == ["Otto rows."] * len(items)
    assert not mark.exists()
    assert left == {"items.jsonl", "scoring.py", "handed-on_nll.yaml", "handed-on_gen.yaml"}
