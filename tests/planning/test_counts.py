"""Closed-form counts against the published ones, and broken configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant_builder.errors import ModelError
from assistant_builder.models.catalog import CATALOG, sizes
from assistant_builder.planning.families import build
from assistant_builder.planning.references import REFERENCES
from assistant_builder.planning.sources import architecture_of


@pytest.mark.parametrize("entry", [*CATALOG.values(), *REFERENCES.values()], ids=lambda entry: entry.name)
def test_the_count_is_the_published_one(entry):
    assert build(entry.config).parameters == entry.parameters


def test_a_tied_head_is_counted_once():
    tied, untied = (build(sizes("llama", 1000, 64, 128, 2, 4, 2, tied=tied)) for tied in (True, False))
    assert untied.parameters - tied.parameters == 64 * 1000


def test_grouped_queries_have_narrow_keys_and_values():
    modules = {module.name: module for module in build(sizes("llama", 100, 64, 96, 1, 8, 2)).modules}
    assert modules["model.layers.0.self_attn.q_proj"].outputs == 64
    assert modules["model.layers.0.self_attn.k_proj"].outputs == 16


def test_only_the_active_experts_are_multiplied():
    config = sizes("mixtral", 100, 64, 96, 1, 4, 4, num_local_experts=8, num_experts_per_tok=2)
    dense = build(sizes("mistral", 100, 64, 96, 1, 4, 4))
    assert build(config).active_weights == dense.active_weights + 3 * 64 * 96


@pytest.mark.parametrize(("changes", "said"), [
    ({"hidden_size": "wide"}, "hidden_size='wide'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    ({"num_attention_heads": 5}, "no multiple of num_attention_heads=5"),
    ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads=3"),
    ({"vocab_size": True, "intermediate_size": -1}, "intermediate_size=-1"),
])
def test_a_broken_config_is_refused_with_the_value_and_the_place(tmp_path: Path, changes, said):
    config = sizes("llama", 100, 64, 96, 2, 4, 2) | {"architectures": ["LlamaForCausalLM"]} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as error:
        architecture_of(str(tmp_path))
    assert said in error.value.what and "config.json" in error.value.where and error.value.remedy


def test_a_folder_with_only_a_config_is_enough(tmp_path: Path):
    entry = CATALOG["qwen3-0.6b"]
    (tmp_path / "config.json").write_text(json.dumps({**entry.config, "architectures": ["Qwen3ForCausalLM"]}))
    assert architecture_of(str(tmp_path))[1].parameters == entry.parameters


def test_a_hub_id_of_the_catalog_needs_no_hub():
    name, architecture = architecture_of("Qwen/Qwen3-8B")
    assert (name, architecture.parameters) == ("qwen3-8b", CATALOG["qwen3-8b"].parameters)


def test_an_unknown_name_says_what_is_near():
    with pytest.raises(ModelError, match="qwen3-8b"):
        architecture_of("qwen3-9b")
