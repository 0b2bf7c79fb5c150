"""While a base is loaded, nothing of the model before it is in memory."""

from pathlib import Path
from typing import Any

import pytest
from torch.multiprocessing.reductions import StorageWeakRef

from assistant_builder.arms import CELLS
from assistant_builder.atomic_io import write_json
from assistant_builder.models import loading
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from evals.cells import Variant
from evals.decline_rules import fit_rules
from evals.score import score_study
from tests.evals.test_decline_rules import retriever
from tests.export.tiny import tiny_base, tiny_study

pytestmark = pytest.mark.train


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of earlier models that are in memory as each base is loaded."""
    load, counts = loading.load_base, []
    weights: dict[StorageWeakRef, int] = {}

    def load_base(spec: loading.BaseSpec) -> Any:
        counts.append(sum(size for weight, size in weights.items() if not weight.expired()))
        model = load(spec)
        for value in model.parameters():
            weights[StorageWeakRef(value.untyped_storage())] = value.nbytes
        return model

    monkeypatch.setattr(loading, "load_base", load_base)
    return counts


def study_of(tmp_path: Path, **changes: Any) -> tuple[Study, Path]:
    base = tiny_base(tmp_path / "base")
    return tiny_study(base, eval__max_new_tokens=2, **changes), base


@pytest.mark.long
def test_scoring_has_one_model_in_memory(tmp_path, bundled_models, request):
    study, _ = study_of(
        tmp_path,
        eval__retention=True,
        eval__cells=["B16", "L16", "Q4", "B4", "L4", "QD", "LM"],
        eval__noise_floor=False,
        eval__baselines=False,
        eval__similarity=False,
    )
    write_json(study.embedding_file, {"leaks": []})
    alive: list[int] = request.getfixturevalue("alive")
    score_study(study)
    assert alive == [0] * 6  # two bases for the headline, the same for the rest, two merged models


def test_fitting_the_rules_has_one_model_in_memory(tmp_path, request):
    study, base = study_of(tmp_path, approaches=["grounded"])
    study.retrieval_folder.mkdir(exist_ok=True)
    alive: list[int] = request.getfixturevalue("alive")
    fit_rules(
        study,
        base,
        ChatTokenizer.load(base),
        retriever(study),
        [Variant(CELLS[name]) for name in ("L16", "Q4", "QD", "LM")],
        lambda run: None,
    )
    assert alive == [0] * 4
