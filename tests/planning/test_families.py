"""Module lists of every family against the models that transformers builds on the meta device."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from assistant_builder.errors import ModelError
from assistant_builder.planning.architecture import FAMILIES, build
from assistant_builder.planning.load_architecture import load_architecture

TINY = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "mlp_only_layers": [0],
}
UNUSUAL = {"attention_bias": True, "mlp_bias": True}


def parameters_by_module(config: dict) -> dict[str, int]:
    kind = config["model_type"]
    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **rest))
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        owner = (
            name.split(".experts.")[0] + ".experts"
            if ".experts." in name
            else name.rpartition(".")[0]
        )
        found[owner] += parameter.numel()
    return dict(found)


def planned_parameters(config: dict) -> dict[str, int]:
    return {module.name: module.parameters for module in build(config).modules if module.parameters}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_module_of_a_tiny_model(kind):
    extra = EXPERTS if FAMILIES[kind].experts else {}
    for tied in (False, True):
        config = {
            "model_type": kind,
            **TINY,
            **extra,
            **(UNUSUAL if tied else {}),
            "tie_word_embeddings": tied,
        }
        assert planned_parameters(config) == parameters_by_module(config)


@pytest.mark.parametrize("kind", FAMILIES)
def test_omitted_config_values_have_the_defaults_of_transformers(kind):
    one = {"model_type": kind, "num_hidden_layers": 1}
    assert planned_parameters(one) == parameters_by_module(one)
    assert len(build({"model_type": kind}).blocks) == AutoConfig.for_model(kind).num_hidden_layers


def test_a_model_with_a_vision_tower():
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
        "vision_use_head": False,
    }
    config = {
        "model_type": "gemma3",
        "text_config": {**TINY, "model_type": "gemma3_text"},
        "vision_config": vision,
    }
    assert planned_parameters(config) == parameters_by_module(config)


def write_config(folder: Path, config: dict) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.train
def test_an_unknown_family_is_built_from_its_own_code(tmp_path):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    architecture = load_architecture(write_config(tmp_path, config))[1]
    assert architecture.parameters == 124_439_808  # the published count
    assert not architecture.known and len(architecture.blocks) == 12
    assert {module.name.rpartition(".")[2] for module in architecture.linear()} == {
        "c_attn",
        "c_proj",
        "c_fc",
    }


@pytest.mark.train
def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot build this architecture") as error:
        load_architecture(
            write_config(
                tmp_path, {"model_type": "none-such", "architectures": ["NoneForCausalLM"]}
            )
        )
    assert str(error.value.remedy)
