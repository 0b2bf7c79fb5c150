"""Settings that take less memory: what a training has to give up so that it fits.

What a plan recommends and warns of, in words: one method with its reason, and what to change where none fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS
from assistant_builder.models.catalog import CATALOG
from assistant_builder.planning.families import build
from assistant_builder.planning.hardware import CARDS, Machine
from assistant_builder.planning.memory import FULL_TUNING, Method, base_storage
from assistant_builder.planning.plan import MAX_MEMORY_SHARE, Plan

_MIN_TOKENS = 128
"""Tokens below which pairs are not cut for memory's sake: too little would be left of them."""


def cheapest_saving(plan: Plan, *methods: Method) -> dict[str, Any]:
    """The changes that make these methods fit and cost least; empty where none does, or none is needed.

    Smaller micro-batches cost a little speed and change no result, recomputing activations costs a third more time,
    cutting the longest pairs costs what they say: they are tried in this order.

    Args:
        plan: The plan as it stands.
        methods: What has to fit.
    """
    if all(plan.methods[name].fit != "no" for name in methods):
        return {}

    def fits(changes: dict[str, Any]) -> bool:
        tried = plan.with_changes(changes)
        return all(tried.methods[name].fit != "no" for name in methods)

    smaller = list(_smaller(plan))
    if not smaller or not fits(smaller[-1]):  # the last takes least: where it does not fit, none does
        return {}
    return next(changes for changes in smaller if fits(changes))


def _smaller(plan: Plan) -> Iterator[dict[str, Any]]:
    train = plan.config.train
    now = min(train.micro_batch_size, train.batch_size)
    micro = [rows for rows in _halvings(now, 1) if train.batch_size % rows == 0]
    for length, recompute, rows in itertools.product(_halvings(train.max_length, _MIN_TOKENS), (False, True), micro):
        changes: dict[str, Any] = {}
        if rows != now:
            changes["train.micro_batch_size"] = rows
        if recompute and not plan.lora.checkpointing:
            changes["train.gradient_checkpointing"] = "on"
        if length != train.max_length:
            changes["train.max_length"] = length
        if changes:
            yield changes


def _halvings(value: int, least: int) -> list[int]:
    found = [value]
    while found[-1] // 2 >= least:
        found.append(found[-1] // 2)
    return found


def as_command_line(changes: Mapping[str, Any]) -> str:
    """Changes as the command line takes them: ``--set train.micro_batch_size=2``."""
    return " ".join(f"--set {key}={value}" for key, value in changes.items())


_MIN_16_BIT_SHARE = 0.4
"""Share of the 4-bit base's bytes that is 16-bit, from which on a warning says how little 4-bit saves."""


def method_label(method: Method) -> str:
    """What sentences call a method."""
    return "full fine-tuning" if method == FULL_TUNING else ARMS[method].short


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        method: One of the twins, or ``neither``.
        why: The reason in a sentence or two.
        changes: Settings that would make a method fit, where neither does; in order of what they cost.
        remedies: What else would help, in words.
    """

    method: str
    why: str
    changes: dict[str, Any]
    remedies: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The ``recommendation`` of ``plan --json``."""
        return {"method": self.method, "why": self.why, "changes": self.changes, "remedies": list(self.remedies)}


def advise(plan: Plan) -> Advice:
    """Recommend a method for a plan."""
    lora, qlora = plan.lora, plan.qlora
    memory = gigabytes(plan.memory_bytes)
    if lora.fit == "room":
        spared = gigabytes(max(lora.expected_bytes - qlora.expected_bytes, 0))
        saves = "save no memory" if spared == gigabytes(0) else f"save {spared}"
        return Advice(LORA.name, f"{LORA.short} needs {gigabytes(lora.expected_bytes)} of {memory} and fits with room "
                      f"to spare. 4-bit would {saves}, which is not needed here, and may cost quality.", {})
    if qlora.fit != "no":
        short = "leaves no room" if lora.fit == "tight" else "does not fit"
        return Advice(QLORA.name, f"{QLORA.short} needs {gigabytes(qlora.expected_bytes)} of {memory}; {LORA.short} "
                      f"with {gigabytes(lora.expected_bytes)} {short}.", {},
                      advise_without_twin(plan) if lora.fit == "no" else ())
    if lora.fit == "tight":
        return Advice(LORA.name, f"{LORA.short} needs {gigabytes(lora.expected_bytes)} of {memory}, and 4-bit would "
                      "save nothing here.", {})
    return advise_when_nothing_fits(plan)


def advise_without_twin(plan: Plan) -> tuple[str, ...]:
    """What to do where QLoRA fits and its 16-bit twin does not: what would hold both, and a study without the twin."""
    remedies = []
    changes = cheapest_saving(plan, *TWINS)
    if changes:
        remedies.append(f"With {as_command_line(changes)} both arms fit.")
    card = cheapest_card(plan, *TWINS)
    if card is not None:
        remedies.append(f"One {card.name} holds the float16 twin too.")
    elif not changes:
        remedies.append("No single card holds the float16 twin.")
    if LORA.name in plan.config.arms:
        remedies.append(f"QLoRA alone would fit: --set arms={QLORA.name} (on the page “Arms”, under All settings) "
                        "trains it without its float16 twin. The report then cannot say what 4-bit cost.")
    return tuple(remedies)


def advise_when_nothing_fits(plan: Plan) -> Advice:
    """What to say, and to change, where no method fits."""
    smaller = min((plan.qlora, plan.lora), key=lambda method: method.expected_bytes)
    why = (f"Neither fits: {method_label(smaller.method)} needs {gigabytes(smaller.expected_bytes)}, and "
           f"{gigabytes(plan.memory_bytes)} are there.")
    remedies: list[str] = []
    arms = plan.config.arms
    changes = cheapest_saving(plan, *arms)
    if changes:
        fit = "all arms fit" if len(arms) > 2 else "both arms fit" if len(arms) > 1 else f"{method_label(arms[0])} fits"
        remedies.append(f"With {as_command_line(changes)} {fit}.")
    elif len(arms) > 1:
        changes = cheapest_saving(plan, QLORA.name)
        if changes:
            remedies.append(f"With {as_command_line(changes)} --set arms={QLORA.name} QLoRA fits, without its float16 twin.")
    other = _largest_that_fits(plan)
    if other and other != plan.model:
        remedies.append(f"The largest model of the catalog that fits as it is: {other}.")
    cards = _cards_for(plan)
    if cards:
        remedies.append(cards)
    return Advice("neither", why, changes, tuple(remedies))


def _largest_that_fits(plan: Plan) -> str | None:
    for entry in sorted(CATALOG.values(), key=lambda entry: -entry.parameters):
        if entry.parameters < plan.architecture.parameters:
            tried = replace(plan, model=entry.name, architecture=build(entry.config))
            if tried.qlora.fit != "no":
                return entry.name
    return None


def _cards_for(plan: Plan) -> str:
    needed = plan.qlora.expected_bytes
    alone, both = cheapest_card(plan, QLORA.name), cheapest_card(plan, *TWINS)
    if alone is not None:
        if both == alone:
            return f"QLoRA and its float16 twin each fit one {both.name}."
        return f"QLoRA fits one {alone.name}, its float16 twin " + (
            f"one {both.name}." if both is not None else "no single card.")
    card = max(CARDS.values(), key=lambda card: card.memory_bytes)
    return (f"No single card holds it: {cards_needed(needed, card.memory_bytes)} × {card.name} would, with the model "
            "split among them; this trainer uses one.")


def cheapest_card(plan: Plan, *methods: Method) -> Machine | None:
    """The cheapest card on which each of these methods fits as the settings are; None: there is none."""
    enough = []
    for card in CARDS.values():
        there = replace(plan, machine=card, shards=1, measured={})
        if all(there.methods[method].fit != "no" for method in methods):
            enough.append(card)
    return min(enough, key=lambda card: (card.price_per_hour or math.inf, card.memory_bytes), default=None)


def cards_needed(needed: int, memory_bytes: int) -> int:
    """Cards that hold a training split evenly among them."""
    return math.ceil(needed / (MAX_MEMORY_SHARE * memory_bytes))


def warnings(plan: Plan) -> list[str]:
    """What a careful user should know of this plan."""
    said = [*_about_arithmetic(plan), *_about_storage(plan)]
    train, context = plan.config.train, plan.architecture.context
    if train.optimizer != "adamw" and plan.machine.device == "cpu":
        said.append(f"train.optimizer={train.optimizer} needs a CUDA GPU; on this processor use adamw.")
    if context and train.max_length > context:
        said.append(f"train.max_length={train.max_length} is longer than the model's context of {context} tokens.")
    if not plan.architecture.known:
        said.append(f"The family {plan.architecture.model_type!r} has no formula of its own here: weights and adapters "
                    "are counted from its code, activations as for a Llama of its sizes.")
    return said


def _about_arithmetic(plan: Plan) -> Iterator[str]:
    dtype, machine = plan.compute_dtype, plan.machine
    if dtype == "float32":
        chosen = "was asked for" if plan.config.model.compute_dtype == "float32" else "is all this hardware has"
        yield (f"Compute in float32 {chosen}: about half the speed and twice the activations of bfloat16, for no "
               "measurable quality. The 4-bit weights themselves stay the same size.")
    if dtype == "float16" and machine.device == "cpu":
        yield ("Processors compute float16 about ten times slower than bfloat16 or float32; leave "
               "model.compute_dtype=auto.")
    if dtype == "bfloat16" and not machine.bfloat16:
        yield f"{machine.name} has no bfloat16 arithmetic; set model.compute_dtype=float16 or leave it on auto."
    if dtype == "float16" and machine.device == "cuda":
        yield ("Compute in float16 overflows beyond 65,504: watch for a loss of nan, and prefer hardware with bfloat16 "
               "(Ampere or later).")


def _about_storage(plan: Plan) -> Iterator[str]:
    architecture, qlora, lora = plan.architecture, plan.qlora, plan.lora
    linear = {module.name for module in architecture.linear()}
    kept = sum(stored for name, _, stored in qlora.layers if name not in linear)
    ratio = lora.weights_bytes / qlora.weights_bytes
    if architecture.share("experts") > 0:
        method = base_storage("qlora", plan.config.model)
        yield (f"{architecture.share('experts'):.0%} of this model are experts in fused weights, which "
               f"{method.library or method.label} leaves in 16 bits: QLoRA's base is only {ratio:.1f} times smaller.")
        if plan.config.train.target_modules == "all-linear":
            yield ("Adapters go on the linear layers alone, mostly those of attention; the experts themselves stay as "
                   "they are, so this model learns with fewer trained values than a dense one of its size.")
    elif kept > _MIN_16_BIT_SHARE * qlora.weights_bytes:
        yield (f"{kept / qlora.weights_bytes:.0%} of the 4-bit base's bytes are embeddings, which stay as they are; on "
               f"a model this small 4-bit makes it {ratio:.1f} times smaller, not 4.")
    host = max(method.loading_host_bytes for method in plan.arms)
    if host:
        yield (f"While the base is loaded, the {plan.shards} processes hold it in main memory, about "
               f"{gigabytes(host)} together, before the devices get their shards.")
    if plan.machine.device == "cpu":
        where = "training, chat and evaluation" if plan.qlora.dequantized else "chat and evaluation"
        yield (f"On a processor {where} hold either base in the compute dtype, for speed: 4-bit saves "
               f"{'no memory there' if plan.qlora.dequantized else 'memory in training only'}.")


def gigabytes(value: float) -> str:
    """Bytes in a sentence: ``12.3 GB``."""
    return f"{value / 1e9:.3g} GB"
