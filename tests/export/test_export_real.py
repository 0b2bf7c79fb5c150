"""Exports of a tiny model by the real code: loaded with the libraries alone, they are what was measured."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_json, read_jsonl, write_jsonl
from assistant_builder.errors import EvaluationError, ModelError, StudyError
from assistant_builder.export.export import loading_snippets, read_export, write_export
from assistant_builder.export.job import export_to
from assistant_builder.export_formats import ExportSpec, export_specs
from assistant_builder.models import lora_layers
from assistant_builder.models.loading import BaseSpec, base_spec, load_adapter, load_base
from assistant_builder.study import Study
from tests.commands import command, python, refusal_of
from tests.export.tiny import scored, tiny_base, tiny_study

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def study(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path_factory.mktemp("home")))
        return scored(tiny_study(base), base)


def export(study: Study, spec: ExportSpec, target: Path, **more: Any) -> dict[str, Any]:
    return write_export(
        study, spec, target, force=False, sample=4, report=lambda percent, message: None, **more
    )


def lines_of(folder: Path) -> str:
    """The Python lines of LOADING.md."""
    (found,) = [
        text
        for text in (folder / "LOADING.md").read_text().split("```")
        if text.startswith("python")
    ]
    return found.removeprefix("python")


SPECS = [
    *(spec for spec in export_specs(TWINS) if spec.format != "gguf"),  # see test_gguf.py
    ExportSpec("lora", "prequantized", "INT8"),
]
_RUN = """
import json, sys, traceback
failed = {}
for name, text in json.load(sys.stdin).items():
    try:
        exec(compile(text, name, "exec"), {})
    except Exception:
        failed[name] = traceback.format_exc()
print(json.dumps(failed))
"""


@dataclass(frozen=True)
class Exported:
    folder: Path
    record: dict[str, Any]
    failure: str  # of the lines of LOADING.md; empty: they ran


@pytest.fixture(scope="module")
def exported(
    study: Study, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """The exports by name; one process without the product runs the lines of LOADING.md of all of them."""
    place = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(study.folder.parents[1]))
        records = {spec.name: export(study, spec, place / spec.name) for spec in SPECS}
    lines = {
        spec.name: loading_snippets(study, spec, folder=str(place / spec.name), base=str(base))[
            0
        ].text
        for spec in SPECS
    }
    ran = python(
        "-c", _RUN, input=json.dumps(lines), cwd=place, env={"HF_HUB_OFFLINE": "1"}, ends=None
    )
    assert ran.returncode == 0, ran.stderr
    failed = json.loads(ran.stdout.splitlines()[-1])
    return {
        name: Exported(place / name, record, failed.get(name, ""))
        for name, record in records.items()
    }


@pytest.mark.long
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_an_export_is_what_was_measured_and_its_lines_run(spec, study, base, exported):
    found = exported[spec.name]
    rescore = found.record["rescore"]
    assert found.failure == "" and (rescore["cell"], rescore["items"]) == (spec.cell or "L16", 4)
    assert rescore.get("lossy", False) is (spec.format == "prequantized")
    if spec.type != "INT8":
        assert rescore["outcome"] == "as measured"
    if spec.format == "merged":
        assert rescore["largest_move"] == 0 and 0 < rescore["largest_activation"] < 65_504
    assert {entry["name"] for entry in found.record["files"]} == {
        path.name for path in found.folder.iterdir()
    } - {"export.json"}
    text = lines_of(found.folder)
    assert text.strip() == loading_snippets(study, spec, folder=".", base=base.name)[0].text
    assert len(text.strip().splitlines()) <= 5


@pytest.mark.long
def test_an_export_in_8_bits_says_so(exported):
    folder, record = exported[SPECS[-1].name].folder, exported[SPECS[-1].name].record
    assert record["type"] == "INT8" and record["rescore"]["cell"] == "L16"
    assert read_json(folder / "config.json")["quantization_config"]["load_in_8bit"] is True
    stored = {
        str(value.dtype)
        for name, value in load_file(folder / "model.safetensors").items()
        if name.endswith("proj.weight")
    }
    assert stored == {"torch.int8"}


def test_a_merged_qlora_contains_the_dequantized_base(study, base, tmp_path):
    from assistant_builder.models.lora_layers import merge

    export(study, ExportSpec("qlora", "merged"), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(base / "model.safetensors")
    assert written.keys() == original.keys()
    assert {value.dtype for value in written.values()} == {torch.float16}
    untouched = [name for name in written if "proj" not in name]
    assert untouched and all(torch.equal(written[name], original[name]) for name in untouched)
    cell = merge(
        load_adapter(
            load_base(BaseSpec(base, "nf4", True, "bfloat16")),
            study.arm_folder("qlora") / "adapter",
        )
    ).state_dict()
    moved = [name for name in written if "proj" in name]
    assert all(torch.equal(written[name], cell[name]) for name in moved)


def test_a_merged_config_is_read_by_old_and_new_readers(study, tmp_path):
    export(study, ExportSpec("lora", "merged"), tmp_path / "out")
    config = read_json(tmp_path / "out" / "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000
    assert config["dtype"] == config["torch_dtype"] == "float16"
    assert "quantization_config" not in config
    tokenizer = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert tokenizer["chat_template"] == (tmp_path / "out" / "chat_template.jinja").read_text()
    assert tokenizer["add_bos_token"] is False
    assert read_json(tmp_path / "out" / "generation_config.json")["do_sample"] is False
    assert "<|im_start|>user" in (tmp_path / "out" / "Modelfile").read_text()


def test_the_archive_of_an_adapter_contains_all_files(study, tmp_path):
    record = export(study, ExportSpec("lora", "adapter"), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / record["archive"]) as archive:
        names = {name.removeprefix("tiny-lora-adapter/") for name in archive.namelist()}
    assert (
        set(
            """
        adapter_model.safetensors adapter_config.json tokenizer.json README.md LOADING.md
        DATA.md
    """.split()
        )
        <= names
    )
    assert (
        read_json(tmp_path / "out" / "adapter_config.json")["base_model_name_or_path"]
        == "tiny-llama"
    )


def test_a_qlora_merged_into_the_original_weights_is_noticed(study, tmp_path, monkeypatch):
    """The mistake that most tools make."""
    monkeypatch.setattr(
        "evals.cells.base_of", lambda study, folder, base: _base_of(study, folder, "float16")
    )
    try:
        found = export(study, ExportSpec("qlora", "merged"), tmp_path / "out")["rescore"]
    except EvaluationError as error:
        assert "is not the one that was measured" in str(error) and list(tmp_path.iterdir()) == []
    else:
        assert found["outcome"] == "moved" and found["largest_move"] > 0.03


def _base_of(study: Study, folder: Path, base: str) -> Any:
    return base_spec(study.config.model, folder, "float16")


def test_weights_beyond_float16_are_refused(study, tmp_path, monkeypatch):
    def merged(adapted: Any) -> Any:
        model = merge(adapted)
        model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.inf
        return model

    merge = lora_layers.merge
    monkeypatch.setattr(lora_layers, "merge", merged)
    with pytest.raises(
        ModelError, match=r"infinite or not numbers in float16.*layers\.1\.mlp\.up_proj"
    ):
        export(study, ExportSpec("lora", "merged"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_changed_since_training_is_refused(base, tmp_path):
    study = tiny_study(base)
    with (study.arm_folder("lora") / "adapter" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    for spec in (ExportSpec("lora", "adapter"), ExportSpec("lora", "merged")):
        with pytest.raises(ModelError, match="not the one that training wrote"):
            export(study, spec, tmp_path / "out")


def test_scores_of_an_earlier_adapter_are_not_compared_with(base, tmp_path):
    study = tiny_study(base)
    record = export(study, ExportSpec("lora", "adapter"), tmp_path / "out")
    assert record["rescore"]["outcome"] == "not measured"
    assert "before the evaluation" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "spec",
    [ExportSpec("lora", "adapter"), ExportSpec("qlora", "merged")],
    ids=lambda spec: spec.name,
)
def test_an_export_that_memory_does_not_suffice_to_score_again_is_kept(
    study, spec, tmp_path, monkeypatch
):
    def short(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("evals.lm_eval_model.StudyLM.score_targets", short)
    record = export(study, spec, tmp_path / "out")
    assert record["rescore"]["outcome"] == "not measured"
    assert "memory ran out" in record["rescore"]["reason"]
    assert list((tmp_path / "out").glob("*.safetensors"))
    assert (
        "Warning: these files were not scored again" in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.long
def test_the_command_exports_and_tells(study, tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(study.folder.parents[1]))
    words = f"export tiny --arm lora --format merged --to {tmp_path / 'out'} --sample 2"
    first = command(f"{words} --json")
    document = json.loads(first.stdout)
    assert document["folder"] == str(tmp_path / "out") and document["rescore"]["items"] == 2
    assert document == {**(read_export(tmp_path / "out") or {})}
    assert "holds an earlier export" in refusal_of(words)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    forced = command(f"{words} --force")
    assert first.stderr == ""
    assert {line.partition(":")[0] for line in forced.stderr.splitlines()} == {"export"}
    assert "held-out items" in forced.stdout
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.long
def test_a_failure_in_the_child_reaches_the_command(base, home, tmp_path):
    study = scored(tiny_study(base), base)
    path = study.cell_folder("L16") / "samples.jsonl"
    write_jsonl(path, [{**sample, "nll": sample["nll"] - 5.0} for sample in read_jsonl(path)])
    with pytest.raises(StudyError.__mro__[1], match="is not the one that was measured"):
        export_to(study, ExportSpec("lora", "adapter"), tmp_path / "out", force=False, sample=3)
    assert not (tmp_path / "out").exists()
