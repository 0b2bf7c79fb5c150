"""Fidelity where memory does not suffice for both bases: the evaluation goes on and says why it is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import Cancelled, ResourceError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from evals import kl_divergence
from evals.work_items import ProgressTracker
from tests.export.tiny import tiny_base, tiny_study

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train


def short(kind: str) -> Exception:
    """What is raised where memory runs out, on a GPU and on a processor."""
    return {
        "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        "python": MemoryError(),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    }[kind]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return tiny_study(tiny_base(tmp_path / "base"))


@pytest.fixture
def compare(study: Study, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """Compares the bases of the study; what the record says."""

    def run() -> dict[str, Any]:
        (study.folder / "evals").mkdir(exist_ok=True)
        items = [{"item": "1", "prompt": "one", "target": "two", "tokens": 3}]
        kl_divergence.compare_bases(study, tmp_path / "base", ChatTokenizer.load(tmp_path / "base"), items,
                               ProgressTracker(study, {"fidelity": 1}), {"of": "these"})
        record: dict[str, Any] = read_json(study.folder / "evals" / "fidelity.json")
        return record

    return run


@pytest.mark.parametrize(("place", "kind"), [
    ("_compare", "gpu"), ("_compare", "python"), ("_compare", "cpu"), ("log_softmax", "gpu"), ("log_softmax", "cublas"),
    ("load_dequantized_base", "gpu"), ("load_dequantized_base", "cpu"),
])
def test_memory_that_runs_out_skips_the_comparison(
    compare: Callable[[], dict[str, Any]], study: Study, monkeypatch: pytest.MonkeyPatch, place: str, kind: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise short(kind)

    monkeypatch.setattr(torch if place == "log_softmax" else kl_divergence, place, fail)
    record = compare()
    assert record["pairs"] == [] and record["inputs"] == {"of": "these"}
    assert record["skipped"].startswith("both bases are needed at once: ") and "memory" in record["skipped"]
    assert not (study.folder / "evals" / "fidelity.jsonl").exists()


def test_other_errors_and_a_request_to_stop_pass(
    compare: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (ValueError("shapes"), Cancelled("cancelled on request")):
        def fail(*_: object, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(kl_divergence, "_compare", fail)
        with pytest.raises(type(error)):
            compare()


def test_a_gpu_is_asked_what_is_free_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assistant_builder.models.loading import BaseSpec

    base = tiny_base(tmp_path / "base")
    spec = BaseSpec(base, "float16", True, "bfloat16", device="cuda")
    parameters = sum(value.numel() for value in _tensors(base).values())
    asked = []

    def free(share: float) -> Callable[..., tuple[int, int]]:
        def mem_get_info(*_: object) -> tuple[int, int]:
            asked.append(share)
            return int(parameters * (2 + 4.127 / 8) * share), 10**12

        return mem_get_info

    monkeypatch.setattr(torch.cuda, "mem_get_info", free(0.99))
    with pytest.raises(ResourceError, match="GB are free"):
        kl_divergence._check_memory(spec)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free(2))
    kl_divergence._check_memory(spec)
    assert asked == [0.99, 2]


def test_what_is_needed_does_not_depend_on_how_the_weights_are_stored(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = tiny_base(tmp_path / "base")
    tensors = _tensors(base)
    save_file({name: value.float() for name, value in tensors.items()}, base / "model.safetensors")
    assert kl_divergence._parameters(base) == sum(value.numel() for value in tensors.values())


def _tensors(base: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(base / "model.safetensors")


def test_stored_distributions_give_the_divergence_of_whole_logits(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_base(tmp_path / "base")
    prompter = ChatTokenizer.load(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    items = [{"prompt": f"question {place} " * place, "target": f"answer {place}"} for place in (1, 2, 9, 40)]
    reference = kl_divergence.ReferenceDistributions(model, prompter, items, 3)
    assert reference.items == 4 and reference.mean_kl(model) == pytest.approx(0, abs=1e-6)
    other = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        for value in other.parameters():
            value += 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        total, tokens = 0.0, 0
        for item in items:
            prompt, target = prompter.split_ids(item["prompt"], item["target"])
            known, changed = (each(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                              for each in (model, other))
            total, tokens = total + float((known.exp() * (known - changed)).sum()), tokens + len(target)
    assert reference.mean_kl(other) == pytest.approx(total / tokens, rel=1e-3) and total > 0.01
    one = 4 * len(prompter.tokenizer) * len(prompter.split_ids(items[0]["prompt"], items[0]["target"])[1])
    for limit, count in ((1, 1), (one, 1), (2 * one, 2), (10 * one, 4)):
        monkeypatch.setattr(kl_divergence, "_KEPT_BYTES", limit)
        assert kl_divergence.ReferenceDistributions(model, prompter, items, 3).items == count
