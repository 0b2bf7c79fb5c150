"""How the planner lets several devices share a training.

Closed-form counts against the published ones, and broken configs.
"""

import json
from dataclasses import replace

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ModelError, ResourceError
from assistant_builder.models.catalog import CATALOG, sizes
from assistant_builder.planning.architecture import build
from assistant_builder.planning.hardware import CARDS, Machine
from assistant_builder.planning.load_architecture import PUBLISHED_MODELS, load_architecture
from assistant_builder.planning.memory import (
    ParallelStrategy,
    devices_to_use,
    per_device_batch_size,
    unsharded_bytes,
)
from assistant_builder.planning.plan import Lengths, Plan, choose_parallelism, plan_study

LAPTOP = Machine("a laptop", "cpu", 16 * 10**9, 12 * 10**9)


def plan_on(card: str, base: str, **changes: object) -> Plan:
    config = StudyConfig().with_changes(
        {"model.base": base, **{k.replace("__", "."): v for k, v in changes.items()}}
    )
    return plan_study(config, 1000, Lengths(200, 400, 100, 200), CARDS[card])


@pytest.mark.parametrize(("devices", "rows"), [(1, 8), (2, 8), (4, 4), (8, 2), (16, 1)])
def test_pairs_of_a_step_do_not_depend_on_the_number_of_devices(devices, rows):
    train = StudyConfig().train
    assert per_device_batch_size(train, devices) == rows
    assert train.batch_size % (rows * devices) == 0


def test_micro_batch_size_is_reduced_to_a_divisor_of_the_share():
    train = StudyConfig().with_changes({"train.batch_size": 12, "train.micro_batch_size": 4}).train
    assert per_device_batch_size(train, 2) == 3


def test_devices_are_the_requested_ones_or_the_most_that_divide_the_batch():
    config, card = StudyConfig(), CARDS["A100 80 GB"]
    assert devices_to_use(config, replace(card, devices=8)) == 8
    assert devices_to_use(config, replace(card, devices=6)) == 4  # of 16 pairs
    assert devices_to_use(config, LAPTOP) == 1
    two = config.with_changes({"executor.devices": 2})
    assert devices_to_use(two, LAPTOP) == 2
    with pytest.raises(ResourceError, match="sees 1 GPU"):
        devices_to_use(two, card)
    with pytest.raises(ConfigError, match="evenly"):
        config.with_changes({"executor.devices": 3})


def test_ddp_if_all_arms_fit_one_device_and_fsdp_otherwise():
    fits, too_large = (
        plan_on("A100 80 GB", base) for base in ("smollm2-135m-instruct", "llama-3.3-70b-instruct")
    )
    assert (
        choose_parallelism(fits, 1)
        == choose_parallelism(too_large, 1)
        == ParallelStrategy("one", 1)
    )
    assert choose_parallelism(fits, 8) == ParallelStrategy("ddp", 8)
    assert choose_parallelism(too_large, 8) == ParallelStrategy("fsdp", 8)  # float16 does not fit
    asked = plan_on("A100 80 GB", "smollm2-135m-instruct", executor__spread="fsdp")
    assert choose_parallelism(asked, 2) == ParallelStrategy("fsdp", 2)


def test_a_sharded_model_fits_where_the_complete_one_does_not():
    whole = plan_on("A100 80 GB", "llama-3.3-70b-instruct")
    parted = replace(whole, shards=8)
    assert whole.lora.fit == "no" and parted.lora.fit != "no"
    assert parted.lora.weights_bytes == whole.lora.weights_bytes  # of all devices together
    assert parted.lora.parts["weights"] > whole.lora.weights_bytes / 8
    assert parted.lora.parts["optimizer"] == whole.lora.optimizer_bytes // 8


def test_unsharded_layers_are_two_blocks_and_all_outside_of_blocks():
    layers = [
        ("model.embed", 1, 100),
        ("model.layers.0.q", 1, 10),
        ("model.layers.0.k", 1, 5),
        ("model.layers.10.q", 1, 20),
        ("model.norm", 1, 1),
        ("lm_head", 1, 0),
    ]
    assert unsharded_bytes(layers) == 101 + 2 * 20


def test_a_plan_of_eight_cards_shards_a_model_too_large_for_one():
    config = StudyConfig().with_changes({"model.base": "llama-3.3-70b-instruct"})
    eight = replace(CARDS["A100 80 GB"], devices=8)
    plan = plan_study(config, 1000, Lengths(200, 400, 100, 200), eight)
    assert plan.shards == 8 and plan.lora.fit != "no"
    assert plan.config.train.micro_batch_size == 2
    assert (
        plan_study(config, 1000, Lengths(200, 400, 100, 200), CARDS["A100 80 GB"]).lora.fit == "no"
    )


def test_different_cards_are_planned_as_the_weakest():
    big, small = CARDS["A100 80 GB"], replace(CARDS["T4 16 GB"], free_bytes=10**10)
    # devices=1: the second is not like the first
    here = replace(big, cards=(big, small), is_local=True)
    config = StudyConfig().with_changes({"model.base": "llama-3.1-8b-instruct"})
    assert devices_to_use(config, here) == 1
    assert plan_study(config, 1000, machine=here).machine.memory_bytes == big.memory_bytes
    two = config.with_changes({"executor.devices": 2})
    plan = plan_study(two, 1000, machine=here)
    assert plan.machine.memory_bytes == small.memory_bytes
    assert plan.memory_bytes == 10**10
    assert plan.compute_dtype == "float16"
    assert plan.machine.name == "A100 80 GB and T4 16 GB"
    assert here.with_memory(10**9).with_devices(2).memory_bytes == 10**9
    with pytest.raises(ResourceError, match="sees 2 GPUs"):
        devices_to_use(config.with_changes({"executor.devices": 4}), here)


@pytest.mark.parametrize(
    "entry", [*CATALOG.values(), *PUBLISHED_MODELS.values()], ids=lambda entry: entry.name
)
def test_parameter_count_equals_the_published_one(entry):
    assert build(entry.config).parameters == entry.parameters


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "wide"}, "hidden_size='wide'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads=5"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads=3"),
        ({"vocab_size": True, "intermediate_size": -1}, "intermediate_size=-1"),
    ],
)
def test_error_of_an_invalid_config_names_value_and_file(tmp_path, changes, said):
    config = (
        sizes("llama", 100, 64, 96, 2, 4, 2) | {"architectures": ["LlamaForCausalLM"]} | changes
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as error:
        load_architecture(str(tmp_path))
    assert said in str(error.value.what)
    assert "config.json" in str(error.value.where)
    assert str(error.value.remedy)


def test_a_folder_with_only_a_config_is_enough(tmp_path):
    entry = CATALOG["qwen3-0.6b"]
    (tmp_path / "config.json").write_text(
        json.dumps({**entry.config, "architectures": ["Qwen3ForCausalLM"]})
    )
    assert load_architecture(str(tmp_path))[1].parameters == entry.parameters


def test_a_hub_id_of_the_catalog_needs_no_hub():
    name, architecture = load_architecture("Qwen/Qwen3-8B")
    assert (name, architecture.parameters) == ("qwen3-8b", CATALOG["qwen3-8b"].parameters)


def test_error_of_an_unknown_name_suggests_similar_names():
    with pytest.raises(ModelError, match="qwen3-8b"):
        load_architecture("qwen3-9b")
