"""What a name in ``model.base`` means, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from assistant_builder.errors import ModelError
from assistant_builder.models.catalog import CATALOG, resolve
from assistant_builder.models.checkpoint_dir import base_model_hash, check_folder

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def write_model(folder: Path, config: dict[str, object] | None = None, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    for name, data in (files or {"model.safetensors": b"weights"}).items():
        (folder / name).write_bytes(data)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def refusal(folder: Path, **options: bool) -> str:
    with pytest.raises(ModelError) as caught:
        check_folder(folder, **options)
    assert str(caught.value.remedy)
    return str(caught.value)


def test_entries_are_plausible():
    assert len({entry.hub_id for entry in CATALOG.values()}) == len(CATALOG)
    for name, entry in CATALOG.items():
        assert name == entry.name == name.casefold()
        assert re.fullmatch(r"[\w-]+/[\w.-]+", entry.hub_id)
        assert entry.gated == entry.licence.startswith(("llama", "gemma"))
        # the size in the name is the rounded count
        size = re.search(r"(\d+(?:\.\d+)?)([mb])\b", name)
        if size:
            told = float(size[1]) * {"m": 1e6, "b": 1e9}[size[2]]
            assert 0.75 < entry.parameters / told < 1.5, name


def test_catalog_name_and_hub_id_mean_the_same_model():
    by_name, by_id = resolve("Qwen3-8B"), resolve("qwen/qwen3-8b")
    assert by_name.entry is by_id.entry is CATALOG["qwen3-8b"]
    assert by_name.hub_id == by_id.hub_id == "Qwen/Qwen3-8B"


def test_the_bundled_models_hub_id_means_the_hub():
    assert resolve("HuggingFaceTB/SmolLM2-135M-Instruct").kind == "hub"


def test_existing_folder_wins_over_hub_id(tmp_path, monkeypatch):
    write_model(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    ref = resolve("models/mine")
    assert (ref.kind, ref.name, ref.folder) == ("folder", "mine", tmp_path / "models" / "mine")


def test_catalog_name_wins_over_folder_unless_written_as_path(tmp_path, monkeypatch):
    write_model(tmp_path / "qwen3-8b")
    monkeypatch.chdir(tmp_path)
    assert resolve("qwen3-8b").kind == "hub"
    assert resolve("./qwen3-8b").kind == "folder"


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("lama-3.2-1b-instruct", "Did you mean llama-3.2-1b-instruct"),
        ("zzz", "unknown base model 'zzz'"),
        ("  ", "unknown base model"),
        ("./nowhere", "there is no folder ./nowhere"),
        ("a/b/c", "there is no folder a/b/c"),
        ("~/nowhere", "there is no folder ~/nowhere"),
    ],
)
def test_unknown_names_say_what_is_at_hand(base, said):
    with pytest.raises(ModelError) as caught:
        resolve(base)
    assert said in str(caught.value)
    assert "smollm2-135m-instruct" in str(caught.value.remedy)
    assert "\n" not in str(caught.value)


def test_file_is_no_model(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file"):
        resolve(str(tmp_path / "model.gguf"))


def test_pickled_weights_are_refused_with_the_conversion(tmp_path):
    folder = write_model(tmp_path, **{"pytorch_model.bin": b""})
    assert "use_safetensors=False" in refusal(folder)


def test_missing_shard_is_named(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    folder = write_model(
        tmp_path,
        **{"model-1.safetensors": b"", "model.safetensors.index.json": json.dumps(index).encode()},
    )
    assert "1 of 2 weight files are missing, the first is model-2.safetensors" in refusal(folder)
    (folder / "model-2.safetensors").write_bytes(b"")
    check_folder(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
            "not a causal language model",
        ),
        ({"model_type": "bert"}, "not a causal language model"),
        ({**CONFIG, "quantization_config": {"quant_method": "gptq"}}, "already quantized (gptq)"),
        (
            {**CONFIG, "model_type": "newest", "auto_map": {"AutoModel": "m.M"}},
            "its own Python code",
        ),
    ],
)
def test_models_that_cannot_be_tuned(tmp_path, config, said):
    assert said in refusal(write_model(tmp_path, config))


def test_own_code_where_trusted_or_not_needed(tmp_path):
    own = {**CONFIG, "model_type": "newest", "auto_map": {"AutoModel": "m.M"}}
    check_folder(write_model(tmp_path / "trusted", own), trust_remote_code=True)
    # Phi-4-mini names code of its own, but transformers has the architecture
    native = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "auto_map": {"AutoConfig": "c.C"},
    }
    check_folder(write_model(tmp_path / "native", native))


def test_damaged_or_incomplete_folders(tmp_path):
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "an adapter" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "not a JSON object" in refusal(tmp_path)
    (write_model(tmp_path) / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal(tmp_path)


def test_hash_identifies_content_and_is_kept(tmp_path, home, monkeypatch):
    folder = write_model(tmp_path / "a")
    first = base_model_hash(folder)
    assert first == base_model_hash(write_model(tmp_path / "b"))

    (folder / "README.md").write_text("no part of the model")
    with monkeypatch.context() as patch:
        patch.setattr(
            "assistant_builder.atomic_io.file_hash",
            lambda path: pytest.fail(f"hashed {path.name} again"),
        )
        assert base_model_hash(folder) == first

    (folder / "model.safetensors").write_bytes(b"changed")
    assert base_model_hash(folder) != first
    for sidecar in (home / "models" / ".hashes").glob("*.json"):
        sidecar.write_text("damaged")
    (folder / "model.safetensors").write_bytes(b"weights")
    assert base_model_hash(folder) == first
