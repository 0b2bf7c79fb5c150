"""Fidelity: next-token distributions of cells, compared while they are scored, and those of files."""

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from tests.export.tiny import tiny_base, tiny_study

torch = pytest.importorskip("torch")
kl_divergence = pytest.importorskip("evals.kl_divergence")
StudyLM = pytest.importorskip("evals.lm_eval_model").StudyLM
pytestmark = pytest.mark.train

ITEMS = [
    {
        "item": str(place),
        "prompt": f"question {place} " * place,
        "target": f"answer {place}",
        "tokens": 1,
    }
    for place in (1, 2, 9, 40)
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


@pytest.fixture
def study(base: Path) -> Study:
    made = tiny_study(base)
    made.evals_folder.mkdir()
    return made


def observe(
    study: Study,
    base: Path,
    items: list[dict[str, Any]] = ITEMS,
    order: tuple[str, ...] = ("L16", "Q4"),
) -> dict[str, Any]:
    """Read two models as a reference and a candidate; what the record says."""
    prompter, read = ChatTokenizer.load(base), dict(zip(("L16", "Q4"), models(base), strict=True))
    with kl_divergence.FidelityRecorder(study, prompter, items, "float32", order) as recorder:
        for cell in order:
            lm = StudyLM(
                read[cell],
                prompter,
                own_tasks=(),
                batch_size=3,
                max_new_tokens=0,
                tick=lambda kind, items: None,
                observer=recorder.observer(cell),
            )
            lm.read([(item["prompt"], item["target"]) for item in items], answers=False)
        recorder.write({"of": "these"})
    record: dict[str, Any] = read_json(study.evals_folder / "fidelity.json")
    return record


def models(base: Path) -> tuple[Any, Any]:
    """A model and a slightly different one."""
    from transformers import AutoModelForCausalLM

    model, other = (
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval() for _ in range(2)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in other.parameters():
            value += 0.02 * torch.randn(value.shape, generator=generator)
    return model, other


def divergences(base: Path, items: list[dict[str, Any]]) -> list[torch.Tensor]:
    """KL divergence of the two models at each token of each target, from whole logits."""
    prompter, both, found = ChatTokenizer.load(base), models(base), []
    with torch.no_grad():
        for item in items:
            prompt, target = prompter.split_ids(item["prompt"], item["target"])
            known, changed = (
                each(torch.tensor([[*prompt, *target]]))
                .logits[0, len(prompt) - 1 : -1]
                .log_softmax(-1)
                for each in both
            )
            found.append((known.exp() * (known - changed)).sum(dim=-1))
    return found


@pytest.fixture
def two_cells(study: Study) -> Study:
    study.write_config(study.config.with_changes({"eval.cells": ["L16", "Q4"]}))
    return study


def test_cells_are_compared_while_they_are_read(two_cells, base):
    record, expected = observe(two_cells, base), divergences(base, ITEMS)
    (pair,) = record["pairs"]
    assert record["inputs"] == {"of": "these"}
    assert record["skipped"] is None
    assert pair["name"] == "Q4-L16"
    assert pair["tokens"] == sum(map(len, expected))
    assert pair["kl_mean"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-3)
    assert pair["kl_mean"] > 0.01
    lines = read_jsonl(two_cells.evals_folder / "fidelity.jsonl")
    assert [line["item"] for line in lines] == ["1", "2", "9", "40"]
    for line, item in zip(lines, expected, strict=True):
        assert line["pairs"]["Q4-L16"]["kl_max"] == pytest.approx(float(item.max()), rel=1e-3)
    assert {path.name for path in two_cells.evals_folder.iterdir()} == {
        "fidelity.json",
        "fidelity.jsonl",
    }


def test_either_cell_of_a_pair_can_be_read_first(two_cells, base):
    record = observe(two_cells, base)
    lines = (two_cells.evals_folder / "fidelity.jsonl").read_bytes()
    again = observe(two_cells, base, order=("Q4", "L16"))
    assert again["pairs"] == record["pairs"]
    assert (two_cells.evals_folder / "fidelity.jsonl").read_bytes() == lines


def test_items_that_are_asked_twice_have_the_same_line(two_cells, base):
    observe(two_cells, base, [*ITEMS, {**ITEMS[1], "item": "again"}])
    lines = {
        line["item"]: line["pairs"]
        for line in read_jsonl(two_cells.evals_folder / "fidelity.jsonl")
    }
    assert lines["again"] == lines["2"] != lines["1"]


def test_a_small_disk_compares_some_items(two_cells, base, monkeypatch):
    prompter = ChatTokenizer.load(base)
    whole = (
        4
        * len(prompter.tokenizer)
        * sum(len(prompter.split_ids(item["prompt"], item["target"])[1]) for item in ITEMS)
    )
    monkeypatch.setattr(kl_divergence, "_STORED_BYTES", whole // 2)
    observe(two_cells, base)
    assert [line["item"] for line in read_jsonl(two_cells.evals_folder / "fidelity.jsonl")] == [
        "2",
        "40",
    ]


@pytest.mark.parametrize("fault", ["no space for one", "full meanwhile"])
def test_a_full_disk_skips_the_comparison_and_says_so(two_cells, base, fault, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fault == "full meanwhile":
        monkeypatch.setattr(kl_divergence.FidelityRecorder, "_store", full)
    else:
        monkeypatch.setattr(kl_divergence, "_STORED_BYTES", 1)
    record = observe(two_cells, base)
    assert record["pairs"] == [] and record["inputs"] == {"of": "these"}
    assert ("No space left" if fault == "full meanwhile" else "disk space") in record["skipped"]
    assert not (two_cells.evals_folder / "fidelity.jsonl").exists()


def test_stored_distributions_give_the_divergence_of_whole_logits(base, monkeypatch):
    prompter, (model, other) = ChatTokenizer.load(base), models(base)
    reference = kl_divergence.ReferenceDistributions(model, prompter, ITEMS, 3)
    assert reference.items == 4 and reference.mean_kl(model) == pytest.approx(0, abs=1e-6)
    expected = float(torch.cat(divergences(base, ITEMS)).mean())
    assert reference.mean_kl(other) == pytest.approx(expected, rel=1e-3) and expected > 0.01
    one = (
        4
        * len(prompter.tokenizer)
        * len(prompter.split_ids(ITEMS[0]["prompt"], ITEMS[0]["target"])[1])
    )
    for limit, count in ((1, 1), (one, 1), (2 * one, 2), (10 * one, 4)):
        monkeypatch.setattr(kl_divergence, "_KEPT_BYTES", limit)
        assert kl_divergence.ReferenceDistributions(model, prompter, ITEMS, 3).items == count
