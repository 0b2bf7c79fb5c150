"""One study of a 70B model on eight GPUs, from the planner alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from assistant_builder.config import StudyConfig
from assistant_builder.planning.hardware import CARDS
from assistant_builder.planning.load_architecture import architecture_of
from assistant_builder.planning.memory import choose_spread, per_device_batch_size, shared
from assistant_builder.planning.plan import Fit, Lengths, MethodPlan, Plan
from assistant_builder.planning.planner import ASSUMED_PAIRS

MODEL = "llama-3.3-70b-instruct"
DEVICES = 8
GATHERED_PER_SECOND = {"A100 80 GB": 300e9, "H100 80 GB": 450e9}
"""Bytes a second that reach a card from its neighbours: one direction of NVLink, by NVIDIA's data sheets."""
CHECKPOINT_FACTOR = 3
"""A checkpoint holds the adapters and AdamW's two moments, all of one size."""


@dataclass(frozen=True)
class ArmOnDevices:
    """One arm on a machine of several cards.

    Attributes:
        card: The card.
        method: ``lora`` or ``qlora``.
        spread: How the cards share the training.
        device_bytes: Predicted peak on one card.
        fit: Whether that fits.
        checkpointing: Whether activations are recomputed.
        seconds: If the cards share the arithmetic evenly and lose nothing by that.
        gather_seconds: What it takes to bring parted weights to all cards, if nothing were computed meanwhile.
        cost: Of the seconds, by the list price of the cards, in US dollars.
        adapter_bytes: Of the trained adapter.
    """

    card: str
    method: str
    spread: str
    device_bytes: int
    fit: Fit
    checkpointing: bool
    seconds: float
    gather_seconds: float
    cost: float
    adapter_bytes: int


def plan_on(card: str, devices: int = DEVICES) -> Plan:
    """The plan of a study with all settings as they come, on cards that nothing was learnt of yet."""
    config = StudyConfig().with_changes({"model.base": MODEL})
    name, architecture = architecture_of(MODEL, None)
    machine = replace(CARDS[card], devices=devices)
    return shared(Plan(name, architecture, config, machine, ASSUMED_PAIRS, Lengths.assume(config.train.max_length)))


def arms_on(card: str) -> list[ArmOnDevices]:
    """Both arms on eight cards of a kind."""
    plan = plan_on(card)
    return [_arm(plan, card, method) for method in (plan.lora, plan.qlora)]


def _arm(plan: Plan, card: str, method: MethodPlan) -> ArmOnDevices:
    price = plan.machine.price_per_hour
    assert method.seconds is not None and price is not None
    alone = replace(plan, shards=1)
    seconds = method.seconds / DEVICES
    return ArmOnDevices(
        card, method.method, choose_spread(alone, DEVICES).kind, method.expected_bytes, method.fit,
        method.checkpointing, seconds, gather_seconds(plan, method), seconds / 3600 * DEVICES * price,
        method.adapter_bytes,
    )


def gather_seconds(plan: Plan, method: MethodPlan) -> float:
    """Time to bring what other cards hold to each card: for every forward and backward pass of every micro-batch."""
    if method.shards == 1:
        return 0.0
    train = plan.config.train
    micro_batches = method.work.steps * train.batch_size / DEVICES / per_device_batch_size(train, DEVICES)
    passes = 3 if method.checkpointing else 2
    foreign = method.weights_bytes * (DEVICES - 1) / DEVICES
    return micro_batches * passes * foreign / GATHERED_PER_SECOND[plan.machine.name]


def download_bytes() -> int:
    """Weights as the model hub holds them, in 16 bits; both arms are made from them."""
    return 2 * architecture_of(MODEL, None)[1].parameters


def checkpoint_bytes(adapter_bytes: int) -> int:
    """One checkpoint of a training."""
    return CHECKPOINT_FACTOR * adapter_bytes
