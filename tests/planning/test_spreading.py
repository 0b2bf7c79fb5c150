"""How the planner lets several devices share a training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.planning.machines import CARDS, Machine
from assistant_builder.planning.plan import Lengths, Plan
from assistant_builder.planning.planner import plan_study
from assistant_builder.planning.spreading import Spread, choose_spread, devices_to_use, gathered_bytes, micro_rows

LAPTOP = Machine("a laptop", "cpu", 16 * 10**9, 12 * 10**9)


def plan_on(card: str, base: str, **changes: object) -> Plan:
    config = StudyConfig().with_changes({"model.base": base, **{k.replace("__", "."): v for k, v in changes.items()}})
    return plan_study(config, 1000, Lengths(200, 400, 100, 200), CARDS[card])


@pytest.mark.parametrize(("devices", "rows"), [(1, 8), (2, 8), (4, 4), (8, 2), (16, 1)])
def test_a_step_keeps_its_pairs_on_any_number_of_devices(devices: int, rows: int) -> None:
    train = StudyConfig().train
    assert micro_rows(train, devices) == rows
    assert train.batch_size % (rows * devices) == 0


def test_rows_that_do_not_divide_a_share_become_fewer() -> None:
    train = StudyConfig().with_changes({"train.batch_size": 12, "train.micro_batch_size": 4}).train
    assert micro_rows(train, 2) == 3


def test_devices_are_all_that_divide_the_batch_or_those_asked_for() -> None:
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


def test_what_fits_a_device_is_copied_and_what_does_not_is_parted() -> None:
    fits, too_large = (plan_on("A100 80 GB", base) for base in ("smollm2-135m-instruct", "llama-3.3-70b-instruct"))
    assert choose_spread(fits, 1) == choose_spread(too_large, 1) == Spread("one", 1)
    assert choose_spread(fits, 8) == Spread("ddp", 8)
    assert choose_spread(too_large, 8) == Spread("fsdp", 8)  # float16 does not fit, so neither arm is copied
    asked = plan_on("A100 80 GB", "smollm2-135m-instruct", executor__spread="fsdp")
    assert choose_spread(asked, 2) == Spread("fsdp", 2)


def test_a_part_of_every_layer_fits_where_the_whole_does_not() -> None:
    whole = plan_on("A100 80 GB", "llama-3.3-70b-instruct")
    parted = replace(whole, shards=8)
    assert whole.lora.fit == "no" and parted.lora.fit != "no"
    assert parted.lora.weights_bytes == whole.lora.weights_bytes  # of all devices together
    assert parted.lora.parts["weights"] > whole.lora.weights_bytes / 8
    assert parted.lora.parts["optimizer"] == whole.lora.optimizer_bytes // 8


def test_gathered_are_two_blocks_and_what_is_outside() -> None:
    layers = [("model.embed", 1, 100), ("model.layers.0.q", 1, 10), ("model.layers.0.k", 1, 5),
              ("model.layers.10.q", 1, 20), ("model.norm", 1, 1), ("lm_head", 1, 0)]
    assert gathered_bytes(layers) == 101 + 2 * 20


def test_a_plan_of_eight_cards_parts_what_one_cannot_hold() -> None:
    config = StudyConfig().with_changes({"model.base": "llama-3.3-70b-instruct"})
    eight = replace(CARDS["A100 80 GB"], devices=8)
    plan = plan_study(config, 1000, Lengths(200, 400, 100, 200), eight)
    assert plan.shards == 8 and plan.lora.fit != "no"
    assert plan.config.train.micro_batch_size == 2
    assert plan_study(config, 1000, Lengths(200, 400, 100, 200), CARDS["A100 80 GB"]).lora.fit == "no"


def test_cards_that_differ_share_a_training_as_the_weakest_allows() -> None:
    big, small = CARDS["A100 80 GB"], replace(CARDS["T4 16 GB"], free_bytes=10**10)
    here = replace(big, cards=(big, small), here=True)  # devices=1: the second is not like the first
    config = StudyConfig().with_changes({"model.base": "llama-3.1-8b-instruct"})
    assert devices_to_use(config, here) == 1
    assert plan_study(config, 1000, machine=here).machine.memory_bytes == big.memory_bytes
    two = config.with_changes({"executor.devices": 2})
    plan = plan_study(two, 1000, machine=here)
    assert (plan.machine.memory_bytes, plan.memory_bytes, plan.compute_dtype) == (small.memory_bytes, 10**10, "float16")
    assert plan.machine.name == "A100 80 GB and T4 16 GB"
    assert here.with_memory(10**9).sharing(2).memory_bytes == 10**9
    with pytest.raises(ResourceError, match="sees 2 GPUs"):
        devices_to_use(config.with_changes({"executor.devices": 4}), here)
