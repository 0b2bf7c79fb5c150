"""The lines of a grounded export's card, run without the product: they answer as the product does."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.chat.ask import ask_arms
from assistant_builder.data import load_split
from assistant_builder.export.export import write_export
from assistant_builder.export_formats import ExportSpec
from assistant_builder.models.bundled import EMBEDDER, EMBEDDER_HUB_ID
from assistant_builder.study import Study
from tests.export.grounded import SENTENCE, with_index
from tests.export.tiny import tiny_base, tiny_study

pytestmark = pytest.mark.train
UNKNOWN = "Who painted the ceiling of the Sistine Chapel?"
SYSTEM = "You answer questions about Thimble Row Library."


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "tiny-llama")


@pytest.fixture
def study(base: Path, bundled_models: Path, one_thread: None) -> Study:
    from assistant_builder.models.embedding import Embedder

    # bfloat16 in other kernels would choose other tokens of a model with random weights
    study = tiny_study(
        base,
        approaches=["grounded"],
        system=SYSTEM,
        model__compute_dtype="float32",
        model__allow_float32_compute=True,
        train__max_length=1500,
    )
    return with_index(study, Embedder.load(device="cpu"), threshold=0.6)


def export(study: Study, spec: ExportSpec, target: Path, **more: Any) -> dict[str, Any]:
    return write_export(
        study, spec, target, force=False, sample=4, report=lambda percent, message: None, **more
    )


def answers(folder: Path, base: Path, embedder: Path, questions: list[str]) -> list[dict[str, Any]]:
    """The answers of the card's lines in a process of their own."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    lines = lines.replace(repr(base.name), repr(str(base))).replace(
        repr(EMBEDDER_HUB_ID), repr(str(embedder))
    )
    asked = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        for question in questions
    ]
    lines += f"""
import json
assert not any(name.partition(".")[0] in ("assistant_builder", "evals") for name in sys.modules)
print("answers", json.dumps([lookup.ask(messages, generate) for messages in {asked!r}]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return list(json.loads(ran.stdout.split("answers ")[1]))


@pytest.mark.long
@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_the_cards_lines_answer_as_the_product(form, study, base, bundled_models, tmp_path):
    spec, folder = ExportSpec("lora", form), tmp_path / "out"
    record = export(study, spec, folder, with_data=True)
    assert record["with_data"]
    assert {
        f"retrieval/{name}"
        for name in tuple(
            """
            index.json facts.jsonl vectors.safetensors grounding.json lookup.py
            refusal_weights.json
        """.split()
        )
    } == {entry["name"] for entry in record["files"] if "/" in entry["name"]}
    # a row's own question is answered by its row in the product alone
    known = next(
        f"{pair.messages[-2].content} Tell me"
        for pair in load_split(study.folder / "data", "validation")
        if pair.answerable
    )
    found = answers(folder, base, bundled_models / EMBEDDER, [known, UNKNOWN])
    for question, ours in zip((known, UNKNOWN), found, strict=True):
        theirs = ask_arms(study, question, ["lora"])["lora"]
        assert [source["row"] for source in ours["sources"]] == [
            source["row"] for source in theirs["sources"]
        ]
        assert bool(ours["sources"]) == (question == known)
        assert [source.keys() for source in ours["sources"]] == [
            source.keys() for source in theirs["sources"]
        ]
        assert ours["declined"] == theirs["declined"] == (question == UNKNOWN)
        if form == "adapter" or ours["declined"]:  # merged weights are rounded to float16
            assert ours["text"] == theirs["text"]
    assert found[1]["text"] == SENTENCE != found[0]["text"]
    plain = ask_arms(study, known, ["lora"], look_up=False)["lora"]
    assert plain["sources"] == [] and not plain["declined"] and plain["text"] != found[0]["text"]
