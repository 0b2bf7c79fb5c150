"""Safetensors files whose header lies, and adapters whose config does: refused with a sentence, no memory taken."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import TrainConfig
from assistant_builder.errors import ModelError
from assistant_builder.models.loading import BaseSpec, add_adapter, load_adapter, load_base
from tests.export.tiny import tiny_base


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "sound")


Change = Callable[[dict[str, Any], str], object]
"""Changes a header, of which the second argument names a tensor."""


def with_header(path: Path, change: Change, *, length: int | None = None) -> None:
    """Write the file with another header; ``length``: what it says of the header's size."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    changed = change(header, next(name for name in header if name != "__metadata__"))
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    path.write_bytes(
        (len(text) if length is None else length).to_bytes(8, "little") + text + raw[8 + size :]
    )


LIES: dict[str, tuple[Change, int | None]] = {
    "sizes beyond the file": (
        lambda header, name: header[name].update(data_offsets=[0, 10**15]),
        None,
    ),
    "a shape beyond memory": (lambda header, name: header[name].update(shape=[10**9, 10**9]), None),
    "a shape that overflows": (lambda header, name: header[name].update(shape=[2**63, 2]), None),
    "overlapping tensors": (
        lambda header, name: (
            [
                entry.update(data_offsets=[0, entry["data_offsets"][1] - entry["data_offsets"][0]])
                for key, entry in header.items()
                if key != "__metadata__"
            ]
            and None
        ),
        None,
    ),
    "an unknown dtype": (lambda header, name: header[name].update(dtype="Q9"), None),
    "a dtype of a wrong kind": (lambda header, name: header[name].update(dtype=5), None),
    "a negative offset": (lambda header, name: header[name].update(data_offsets=[-4, 0]), None),
    "a hole": (lambda header, name: header.pop(name) and None, None),
    "another shape of the same size": (
        lambda header, name: header[name].update(
            shape=[header[name]["shape"][0] * header[name]["shape"][-1]]
        ),
        None,
    ),
    "a header beyond all files": (lambda header, name: None, 2**63),
    "a header beyond this file": (lambda header, name: None, 90_000_000),
    "no object": (lambda header, name: b"[]", None),
    "brackets": (lambda header, name: b"[" * 100_000, None),
    "no text": (lambda header, name: b"\xff\xfe{}", None),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_a_lying_header_is_refused(sound, tmp_path, lie, storage):
    shutil.copytree(sound, tmp_path / "base")
    change, length = LIES[lie]
    with_header(tmp_path / "base" / "model.safetensors", change, length=length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="not loadable") as caught:
        load_base(BaseSpec(tmp_path / "base", storage, True, "bfloat16"))
    assert str(caught.value.where) == str(tmp_path / "base") and str(caught.value.remedy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"x" * 100])
def test_a_file_that_holds_no_tensors_is_refused(sound, tmp_path, content):
    shutil.copytree(sound, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not loadable"):
        load_base(BaseSpec(tmp_path / "base", "float16", True, "bfloat16"))


@pytest.mark.parametrize(
    "change",
    [
        [],
        5,
        {"peft_type": 5},
        {"r": "x"},
        {"r": {}},
        {"target_modules": 5},
        {"lora_alpha": "x"},
        {"rank_pattern": 5},
        {"peft_type": "NONE"},
        {"target_modules": "("},
        {"target_modules": r"((\w|\.)+)+!"},
        {"target_modules": [r"((\w|\.)+)+!"]},
        {"r": 3_000_000},
        {"rank_pattern": {r".*\.q_proj": 3_000_000}},
        {"rank_pattern": {r"((\w|\.)+)+!": 8}},
        {"alpha_pattern": {r"((\w|\.)+)+!": 8}},
    ],
)
def test_an_adapter_config_of_a_wrong_kind_is_refused(sound, tmp_path, change):
    spec = BaseSpec(sound, "float16", True, "bfloat16")
    add_adapter(load_base(spec), TrainConfig(rank=4), 0).save_pretrained(str(tmp_path / "adapter"))
    path = tmp_path / "adapter" / "adapter_config.json"
    write_json(path, {**read_json(path), **change} if isinstance(change, dict) else change)
    with pytest.raises(ModelError) as caught:
        load_adapter(load_base(spec), tmp_path / "adapter")
    assert str(caught.value.where) and str(caught.value.remedy)


@pytest.mark.parametrize(
    "change",
    [
        {"exclude_modules": r"((\w|\.)+)+!"},
        {"layer_replication": [[0, 1]] * 3},
        {"modules_to_save": ["lm_head"]},
        {"bias": 5},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_training_does_not_write_change_nothing(sound, tmp_path, change):
    spec = BaseSpec(sound, "float16", True, "bfloat16")
    add_adapter(load_base(spec), TrainConfig(rank=4), 0).save_pretrained(str(tmp_path / "adapter"))
    before = load_adapter(load_base(spec), tmp_path / "adapter").state_dict()
    path = tmp_path / "adapter" / "adapter_config.json"
    write_json(path, {**read_json(path), **change})
    after = load_adapter(load_base(spec), tmp_path / "adapter").state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("error", ["OutOfMemoryError", "AcceleratorError"])
def test_a_fault_of_the_gpu_is_not_laid_to_the_adapter(sound, tmp_path, monkeypatch, error):
    kind = getattr(torch, error)

    def fail(*_: object, **__: object) -> None:
        raise kind("CUDA error")

    LoraConfig(target_modules=["q_proj"]).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    monkeypatch.setattr(PeftModel, "from_pretrained", fail)
    with pytest.raises(kind, match="CUDA error"):
        load_adapter(load_base(BaseSpec(sound, "float16", True, "bfloat16")), tmp_path)
