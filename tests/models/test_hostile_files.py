"""JSON that comes with a model, a wrong spec of value for every key that is read: a sentence, never a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.config import ModelConfig
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError, ModelError
from assistant_builder.export import merged
from assistant_builder.export.adapter import copy_tokenizer
from assistant_builder.export_formats import EXPORT_FORMATS, ExportSource
from assistant_builder.models.catalog import CATALOG, resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import check_folder, max_pair_tokens
from assistant_builder.models.fetch import local_model_folder
from assistant_builder.planning import load_architecture
from assistant_builder.planning.architecture import FAMILIES
from tests.models.hostile_base import hostile_base, write_weights
from tests.synthetic_study import new_study

DEEP = "[" * 100_000
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "x",
    "\0",
    "x" * 10_000,
    [],
    [5],
    [[]],
    {},
    {"x": {}},
    {"x": [None]},
]
SIZES = sorted(
    {key for family in FAMILIES.values() for key in family.defaults}
    | set(
        """
        num_key_value_heads head_dim attention_bias mlp_bias qkv_bias mlp_only_layers
        attn_logit_softcapping max_position_embeddings n_positions tie_word_embeddings
    """.split()
    )
)
KEYS = [
    "architectures",
    "model_type",
    "quantization_config",
    "auto_map",
    "text_config",
    "vision_config",
    "rope_parameters",
    "rope_theta",
    *SIZES,
]
TOKENIZER_KEYS = """
    chat_template eos_token bos_token pad_token unk_token extra_special_tokens
    additional_special_tokens added_tokens_decoder tokenizer_class model_max_length
    add_bos_token clean_up_tokenization_spaces
""".split()
TALK = [Message("system", "Be brief."), Message("user", "Who rows?")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hostile_base(tmp_path / "base")


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that asks transformers about an unknown architecture takes seconds, and fails with a sentence."""

    def probe(folder: Path) -> None:
        raise ModelError("not known", where=str(folder), remedy="x")

    monkeypatch.setattr(load_architecture, "probe", probe)


def ends_well(work: Callable[[], object]) -> None:
    """Run something; it may refuse with an error for the user."""
    try:
        work()
    except AssistantBuilderError as error:
        assert error.what and error.remedy and len(str(error.what)) < 2_000


def read_config_everywhere(folder: Path) -> None:
    ends_well(lambda: check_folder(folder))
    ends_well(lambda: check_folder(folder, trust_remote_code=True))
    ends_well(lambda: resolve(str(folder)))
    ends_well(lambda: local_model_folder(ModelConfig(base=str(folder))))
    ends_well(lambda: max_pair_tokens(folder, 128))
    ends_well(lambda: load_architecture.architecture_from_folder(folder))
    ends_well(lambda: merged.checkpoint_config(read_json(folder / "config.json")))


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("key", KEYS)
def test_config(folder, family, key):
    whole = read_json(folder / "config.json") | {"model_type": family}
    if family == "gemma3":
        whole |= dict(CATALOG["gemma-3-4b-it"].config)
    for value in VALUES:
        write_json(folder / "config.json", {**whole, key: value})
        read_config_everywhere(folder)
        for part in ("text_config", "vision_config"):
            if isinstance(whole.get(part), dict):
                write_json(folder / "config.json", {**whole, part: {**whole[part], key: value}})
                read_config_everywhere(folder)


@pytest.mark.parametrize(
    "change", [{"quantization_config": "x"}, {"architectures": 5}, {"model_type": ["llama"]}]
)
def test_the_folder_is_refused_with_its_place(folder, change):
    write_json(folder / "config.json", read_json(folder / "config.json") | change)
    with pytest.raises(ModelError) as caught:
        check_folder(folder)
    assert str(folder) in str(caught.value.where) and str(caught.value.remedy)


def test_a_config_of_endless_layers_is_not_planned(folder):
    write_json(
        folder / "config.json", read_json(folder / "config.json") | {"num_hidden_layers": 10**9}
    )
    with pytest.raises(ModelError, match="num_hidden_layers=1000000000 is more than any model has"):
        load_architecture.architecture_from_folder(folder)


@pytest.mark.parametrize("key", TOKENIZER_KEYS)
def test_tokenizer_config(folder, key):
    (folder / "chat_template.jinja").unlink()
    whole = read_json(folder / "tokenizer_config.json")
    for value in VALUES:
        write_json(folder / "tokenizer_config.json", {**whole, key: value})
        ends_well(lambda: ChatTokenizer.load(folder).prompt_ids(TALK))


@pytest.mark.parametrize(
    "key",
    """
        version truncation added_tokens normalizer pre_tokenizer model decoder post_processor
        padding
    """.split(),
)
def test_tokenizer(folder, key):
    whole = read_json(folder / "tokenizer.json")
    for value in VALUES:
        write_json(folder / "tokenizer.json", {**whole, key: value})
        ends_well(lambda: ChatTokenizer.load(folder).prompt_ids(TALK))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "[]", "null", "5", '"x"', "", "{", "\0", "9" * 5_000, "{}"]
)
def test_files_that_hold_no_such_object(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    ends_well(lambda: ChatTokenizer.load(folder).prompt_ids(TALK))
    ends_well(lambda: check_folder(folder))
    ends_well(lambda: load_architecture.architecture_from_folder(folder))


def test_a_tokenizer_of_brackets_is_a_sentence(folder):
    (folder / "tokenizer.json").write_text(DEEP, encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer cannot be read") as caught:
        ChatTokenizer.load(folder)
    assert str(caught.value.where) == str(folder) and str(caught.value.remedy)


@pytest.mark.parametrize("text", [DEEP, "[]", "null", "5", '"x"', ""])
def test_files_that_an_export_copies(folder, tmp_path, text):
    prompter, out = ChatTokenizer.load(folder), tmp_path / "out"
    out.mkdir()
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        merged.write_generation_config(folder, out, prompter)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        copy_tokenizer(folder, out, prompter, adds_bos=None)
    study = new_study()
    adapter = study.arm_folder("lora") / "adapter"
    adapter.mkdir(parents=True)
    write_weights(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    write_json(
        study.arm_folder("lora") / "summary.json",
        {"adapter_sha256": file_hash(adapter / "adapter_model.safetensors")},
    )
    source = ExportSource(study, "lora", "title", folder, "x", prompter, "")
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        EXPORT_FORMATS["adapter"].write(source, out)


@pytest.mark.parametrize("value", [*VALUES, {"x": 5}, {"x": None}, {"x": "."}])
def test_an_index_of_a_wrong_kind(folder, value):
    for index in ({"weight_map": value}, value):
        write_json(folder / "model.safetensors.index.json", index)
        with pytest.raises(ModelError) as caught:
            check_folder(folder)
        assert str(caught.value.where) and str(caught.value.remedy)


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "{}/other.safetensors",
        "sub/other.safetensors",
        "..\\other.safetensors",
        "/etc/passwd",
        "config.json",
        ".",
        "",
    ],
)
def test_an_index_that_names_files_elsewhere(folder, tmp_path, name):
    write_weights(tmp_path / "other.safetensors")
    (folder / "sub").mkdir()
    write_weights(folder / "sub" / "other.safetensors")
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"x": name.format(tmp_path)}}
    )
    with pytest.raises(ModelError, match="not a safetensors file of this folder") as caught:
        check_folder(folder)
    assert str(caught.value.where).endswith("index.json") and str(caught.value.remedy)


def test_an_index_of_this_folder_is_accepted(folder):
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"x": "model.safetensors"}})
    check_folder(folder)
