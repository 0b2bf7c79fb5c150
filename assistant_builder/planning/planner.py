"""The two ways into the planner: a model by name, and a study; and the document that a plan is written as."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.config import StudyConfig
from assistant_builder.planning.advice import advise, cards_needed, warnings
from assistant_builder.planning.hardware import CARDS, Machine, processor_flops, this_machine
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import FULL_TUNING, distribute
from assistant_builder.planning.plan import Lengths, Plan
from assistant_builder.planning.training_time import load_measured_runs

ASSUMED_PAIRS = 10_000
"""Pairs that a plan without data is made for."""
COMPARED_CARD = "A100 80 GB"


def plan_study(
    config: StudyConfig, pairs: int = 0, lengths: Lengths | None = None, machine: Machine | None = None
) -> Plan:
    """Plan the training of a study; loads nothing and asks the hub only for a config.json that is not here.

    Args:
        config: The settings, the base model among them.
        pairs: Training pairs; 0: not known, 10,000 are taken.
        lengths: Lengths of the sequences; None: guessed from ``train.max_length``.
        machine: Where it would run; None: here.

    Raises:
        ModelError: The base is unknown or out of reach, or its config is broken.
        ResourceError: More GPUs are asked for than the machine has.
    """
    name, architecture = load_architecture(config.model.base, config.model.revision)
    return distribute(Plan(
        name, architecture, config, with_speed(machine or this_machine()), pairs or ASSUMED_PAIRS,
        lengths or Lengths.assume(config.train.max_length), load_measured_runs(architecture.parameters),
    ))


def with_speed(machine: Machine) -> Machine:
    """This machine's processor with its peak, measured; any other machine as it is."""
    if not machine.is_local or machine.device != "cpu":
        return machine
    return replace(machine, flops=processor_flops(machine.cores, machine.bfloat16))


def to_document(plan: Plan) -> dict[str, Any]:
    """What ``plan --json`` prints: bytes, seconds, and the recommendation."""
    price = plan.price_per_hour()
    methods = {name: {**method.to_record(), "cost": method.cost(price)} for name, method in plan.methods.items()}
    machine, lengths = plan.machine, plan.lengths
    return {
        "model": plan.model,
        "parameters": plan.architecture.parameters,
        "methods": {name: record for name, record in methods.items() if name != FULL_TUNING},
        "recommendation": {
            **advise(plan).to_record(),
            "arms_that_fit": [arm for arm in ARMS if arm in methods and plan.methods[arm].fit != "no"],
        },
        "warnings": warnings(plan),
        "full_fine_tuning": methods[FULL_TUNING],
        "machine": {
            "name": machine.name, "device": machine.device, "memory_bytes": machine.memory_bytes,
            "free_bytes": machine.free_bytes, "price_per_hour": price, "compute_dtype": plan.compute_dtype,
        },
        "training": {
            "pairs": plan.pairs, "steps": plan.lora.work.steps, "tokens": plan.lora.work.tokens,
            "mean_tokens": lengths.mean, "longest_tokens": plan.batch.length, "assumed": lengths.assumed,
            "micro_batch_size": plan.batch.rows, "rank": plan.config.train.rank,
        },
        "correction": {
            "runs": plan.measured_runs.runs,
            "memory": {name: method.factor for name, method in plan.methods.items() if name != FULL_TUNING},
        },
        "cards": card_comparison(plan),
    }


def card_comparison(plan: Plan) -> dict[str, Any]:
    """How many 80 GB cards each method takes, and what an hour of them costs beside an hour of one."""
    card = CARDS[COMPARED_CARD]
    there = Plan(plan.model, plan.architecture, plan.config, card, plan.pairs, plan.lengths)
    price = card.price_per_hour or 0.0
    counts = {name: cards_needed(method.total_bytes, card.memory_bytes) for name, method in there.methods.items()}
    return {
        "card": card.name, "price_per_hour": card.price_per_hour, "needed": counts,
        "price_of_hour": {name: number * price for name, number in counts.items()},
        "seconds_on_one": {name: method.seconds for name, method in there.methods.items()},
    }
