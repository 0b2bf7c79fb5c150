"""Exports to GGUF: one file that llama.cpp loads, with the weights that were measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.errors import Cancelled, ConfigError, ModelError
from assistant_builder.export.export import loading_snippets, write_export
from assistant_builder.export.gguf import GGUF, GgufFiles, only_gguf, uses_importance
from assistant_builder.export.importance import (
    ROWS,
    NotMeasured,
    importance_matrix,
    importance_rows,
)
from assistant_builder.export.job import ExportJob
from assistant_builder.export_formats import EXPORT_FORMATS, export_specs, parse_export
from assistant_builder.inference import llamacpp
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.gguf_convert import convert_checkpoint, load_dequantized
from assistant_builder.quantization.gguf import read_gguf
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.study import Study
from assistant_builder.study.limits import pair_limit
from tests.export.tiny import scored, tiny_base, tiny_study
from tests.synthetic_study import finished_study

LINEAR = 4 * 7
"""Matrices of the base with four layers."""


def test_a_type_makes_a_format_of_its_own():
    study = finished_study()
    summary = {"total_parameters": 139_000_000, "trainable_parameters": 4_000_000}
    sizes = [EXPORT_FORMATS["gguf"].of_type(type).estimated_bytes(summary) for type in GGUF_TYPES]
    assert sizes == sorted(sizes, reverse=True) and EXPORT_FORMATS["gguf"].type == "Q8_0"
    assert [spec.type for spec in export_specs(TWINS) if spec.format == "gguf"] == ["", ""]
    ollama, server = loading_snippets(
        study, parse_export("lora", "gguf", "Q4_0"), folder="out", base="B"
    )
    assert "ollama create library -f Modelfile" in ollama.text
    assert "llama-server -m out/library-lora-Q4_0.gguf" in server.text and "curl" in server.text
    assert GGUF.of_type("BF16").lossy is False and GGUF.lossy is True


def test_without_the_extra_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    study = finished_study()
    for arm in ("lora", "qlora"):
        adapter = study.arm_folder(arm) / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    job = ExportJob(study, parse_export("lora", "gguf"))
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[gguf\]'"):
        job.start(tmp_path / "out")
    assert job.record() is None


@pytest.mark.long
@pytest.mark.train
def test_a_model_that_the_converter_does_not_know_is_refused_in_one_line(converter, tmp_path):
    base = tiny_base(tmp_path / "base")  # its tokenizer is in no list of the converter's
    with pytest.raises(ModelError, match="llama.cpp's converter failed") as caught:
        convert_checkpoint(base, tmp_path / "out.gguf")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.gguf").exists()


@pytest.fixture
def study(short_base: Path, converter: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tiny_study(short_base, system="Answer in one word.")


def export(study: Study, type: str, target: Path, **more: Any) -> dict[str, Any]:
    return write_export(
        study,
        parse_export("lora", "gguf", type),
        target,
        force=False,
        sample=4,
        report=lambda percent, message: None,
        **more,
    )


@pytest.mark.train
@pytest.mark.long
def test_an_export_has_one_file_that_the_modelfile_names(study, short_base, tmp_path):
    scored(study, short_base)
    record = export(study, "BF16", tmp_path / "full")
    assert record["rescore"]["outcome"] in ("as measured", "moved")
    assert record["rescore"]["lossy"] is False
    assert record["tensor_types"]["BF16"] == LINEAR + 1
    small = export(study, "Q4_0", tmp_path / "small")
    assert small["tensor_types"] == {"Q4_0": LINEAR, "F32": 9, "Q8_0": 1}
    assert small["type"] == "Q4_0"
    assert small["rescore"]["lossy"] and small["rescore"]["items"] == 4
    path = only_gguf(tmp_path / "small")
    assert path.name == "tiny-lora-Q4_0.gguf"
    modelfile = (tmp_path / "small" / "Modelfile").read_text()
    assert f"FROM ./{path.name}\n" in modelfile and 'SYSTEM """Answer in one word."""' in modelfile
    listed = {entry["name"] for entry in small["files"]}
    assert {path.name, "Modelfile", "README.md", "LOADING.md", "DATA.md"} <= listed
    assert not [name for name in listed if "merged" in name or name.endswith(".safetensors")]
    assert any("210" not in line and "28 Q4_0" in line for line in small["sentences"])
    if llamacpp.is_installed():
        assert any(
            "exactly the study's prompts on 4 held-out items" in line for line in small["sentences"]
        )
    assert "Q4_0" in (tmp_path / "small" / "README.md").read_text()


@pytest.mark.long
@pytest.mark.train
def test_the_weights_are_those_of_the_merged_export(study, short_base, tmp_path):
    write_export(
        study,
        parse_export("lora", "merged"),
        tmp_path / "merged",
        force=False,
        sample=4,
        report=lambda percent, message: None,
    )
    path = GgufFiles(study, "lora").ensure(["BF16"])["BF16"]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    found = load_dequantized(path, short_base, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(found[name], value.to(torch.bfloat16)) for name, value in merged.items())


@pytest.mark.long
@pytest.mark.train
def test_files_of_a_study_are_written_together_and_once(study, monkeypatch):
    files = GgufFiles(study, "lora")
    assert files.record("Q8_0") is None

    def cancel(fraction: float, message: str) -> None:
        if "Q4_0" in str(message):
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        files.ensure(["Q8_0", "Q4_0"], cancel)
    assert [path.name for path in files.folder.glob("*.gguf")] == ["tiny-lora-Q8_0.gguf"]
    assert not [path for path in files.folder.iterdir() if path.is_dir()]
    left = files.folder / ".lora-killed"
    left.mkdir()
    found = files.ensure(["Q8_0", "Q4_0"])
    assert not left.exists()
    assert {type: read_gguf(path).path for type, path in found.items()} == found
    for type, path in found.items():
        record = files.record(type)
        assert record is not None and record["sha256"] == file_hash(path) and record["type"] == type
    monkeypatch.setattr(GgufFiles, "_write", None)  # nothing is left to write
    assert files.ensure(["Q4_0"]) == {"Q4_0": found["Q4_0"]}
    summary = study.arm_folder("lora") / "summary.json"
    write_json(summary, {**read_json(summary), "adapter_sha256": "another"})
    assert files.record("Q4_0") is None


def test_a_k_quant_without_llama_cpp_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("assistant_builder.quantization.k_quants.is_installed", lambda: False)
    monkeypatch.setattr("assistant_builder.export.gguf.require_extra", lambda *_: None)
    study = finished_study()
    (study.arm_folder("lora") / "adapter").mkdir(exist_ok=True)
    (study.arm_folder("lora") / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    job = ExportJob(study, parse_export("lora", "gguf", "Q4_K_M"))
    with pytest.raises(ConfigError, match="needs the package libgguf, which is not installed"):
        job.start(tmp_path / "out")
    assert job.record() is None and not (tmp_path / "out").exists()


def test_an_export_is_written_as_the_scored_file_or_by_the_settings():
    study = finished_study()
    q4_0, bf16 = (parse_export("lora", "gguf", type) for type in ("Q4_0", "BF16"))
    for setting, weighted in (
        ("auto", study.config.grounded),
        (True, True),
        ("false", False),  # as earlier versions wrote it
    ):
        study.write_config(study.config.with_changes({"formats.importance": setting}))
        assert uses_importance(study, q4_0) is weighted
        assert not uses_importance(study, bf16)


@pytest.mark.train
@pytest.mark.slow
def test_an_importance_matrix_lowers_the_weighted_error(study, short_base, tmp_path):
    from gguf import GGUFReader, dequantize

    prompter = ChatTokenizer.load(short_base)
    rows = importance_rows(study, prompter)
    assert 0 < len(rows) <= ROWS and max(map(len, rows)) <= pair_limit(study)
    found = importance_matrix(short_base, "llama", rows, "float32", lambda fraction, message: None)
    assert len(found) == LINEAR and all((weights > 0).all() for weights in found.values())
    # they have the same inputs
    assert np.array_equal(found["blk.1.attn_q.weight"], found["blk.1.attn_k.weight"])
    assert found["blk.0.ffn_down.weight"].shape == (
        GGUFReader(GgufFiles(study, "lora").ensure(["BF16"])["BF16"])
        .fields["llama.feed_forward_length"]
        .contents(),
    )
    study.write_config(study.config.with_changes({"formats.importance": "off"}))
    plain = GgufFiles(study, "lora").ensure(["Q4_0"])["Q4_0"].read_bytes()
    study.write_config(study.config.with_changes({"formats.importance": "on"}))
    files = GgufFiles(study, "lora")
    assert files.record("Q4_0") is None  # the file without is out of date
    path = files.ensure(["Q4_0"])["Q4_0"]
    assert path.read_bytes() != plain and len(path.read_bytes()) == len(plain)
    (tmp_path / "plain.gguf").write_bytes(plain)
    full, before, after = (
        {each.name: dequantize(each.data, each.tensor_type) for each in GGUFReader(file).tensors}
        for file in (files.path("BF16"), tmp_path / "plain.gguf", path)
    )
    for name, weights in found.items():  # those of the base; the adapter changes them little
        errors = [(weights * (full[name] - values[name]) ** 2).sum() for values in (before, after)]
        assert errors[1] < errors[0], name
    record = export(study, "Q4_0", tmp_path / "out")  # as the files of the study
    assert record["importance"] is True
    assert any("importance of" in line for line in record["sentences"])
    assert only_gguf(tmp_path / "out").read_bytes() == path.read_bytes()
    assert "importance" not in export(study, "BF16", tmp_path / "full")


@pytest.mark.long
@pytest.mark.train
def test_files_are_written_without_a_matrix_that_cannot_be_measured(study, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise NotMeasured("its importance matrix cannot be measured")

    monkeypatch.setattr("assistant_builder.export.gguf.importance_matrix", fail)
    files = GgufFiles(study, "lora")
    files.ensure(["Q4_0"])
    record = files.record("Q4_0")
    assert record is not None and record["importance"] is False
    assert "importance" not in export(study, "Q4_0", tmp_path / "out"), (
        "an export is the file that was scored"
    )
