"""The shell blocks of README, CONTRIBUTING and the site are executed as they are written.

Those that make show what it would do; those that train get synthetic results, and those marked ``trains`` train a tiny
base model for two steps. :mod:`tests.documents.programs` has the details.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import openpyxl
import pytest

from assistant_builder.atomic_io import write_json
from tests.documents.blocks import PAGES, REASONS, ROOT, SHELL, TRAINS, Block, fenced, shell_blocks
from tests.documents.programs import BASE, install
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL, finished_study
from tests.test_contributing import RECIPES

COMMAND = re.compile(
    r"\s*(\$ )?([A-Z_]+=\S+ )*(assistant-builder|make|python3?|pip|lm-eval|ray|cd|curl|export) "
)
FAQ = [
    (f"What is the number of hall {hall}?", f"Hall {hall} has the number {hall * 7}.")
    for hall in range(30)
]


@pytest.fixture
def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the blocks name, and the programs on the PATH."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("datasets_cards", "benchmarks", "examples"):
        (work / name).symlink_to(ROOT / name)
    shutil.copyfile(SMALL, work / "support.csv")
    book = openpyxl.Workbook()
    for row in (("question", "answer"), *FAQ):
        book.active.append(row)
    book.save(work / "faq.xlsx")
    accepted = [
        f"yes,Hall {hall}: which number?,{hall + 2},{question},{answer}"
        for hall, (question, answer) in enumerate(FAQ)
    ]
    (work / "drafts.csv").write_text(
        "\n".join(["accept,question,row,known question,answer", *accepted]) + "\n", encoding="utf-8"
    )
    (work / "study.yaml").write_text("name: ranks\ndata: {source: support.csv}\n", encoding="utf-8")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    for name, text in RECIPES.items():
        (plugins / f"{name}.py").write_text(text, encoding="utf-8")
    install(tmp_path / "bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return work


def run(block: Block, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, (
        f"{block.id}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    assert "Traceback" not in done.stderr, f"{block.id}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_are_tagged_and_their_marks_are_known(page):
    blocks = list(fenced(page))
    for block in blocks:
        if block.language in SHELL:
            assert block.mark in ("", TRAINS, *REASONS), block.id
        else:
            assert not block.mark and not COMMAND.match(block.text), block.id
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^<!-- shell: ", text, re.MULTILINE)) == sum(
        bool(block.mark) for block in blocks
    )
    assert text.count("\n```") == 2 * len(blocks)


@pytest.mark.long
@pytest.mark.parametrize("block", shell_blocks(""), ids=lambda block: block.id)
def test_block_runs(block, folder):
    shutil.copytree(tiny_folder(folder.parent), folder / "my-model")
    for name in ("support", "faq"):
        if re.search(rf"\b{name}\b(?!\.)", block.text):
            finished_study(name, folder / ("faq.xlsx" if name == "faq" else "support.csv"))
    run(block, folder)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_blocks_that_train_run_on_a_tiny_base(folder, home, bundled_models, monkeypatch):
    base = tiny_base(folder / "my-model")
    monkeypatch.setenv(BASE, str(base))
    bundled = bundled_models / "smollm2-135m-instruct"
    bundled.unlink()
    bundled.symlink_to(base)
    (folder / "drafts.csv").unlink()
    # README and quick start have one in common
    blocks = {block.text: block for block in shell_blocks(TRAINS)}
    assert len(blocks) >= 4
    for block in sorted(
        blocks.values(), key=lambda block: block.page.name != "python.md"
    ):  # it trains the study
        run(block, folder)


def tiny_folder(parent: Path) -> Path:
    """A folder with the config.json of a model."""
    folder = parent / "config-only"
    folder.mkdir()
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 256,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
        },
    )
    return folder
