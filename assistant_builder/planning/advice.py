"""The recommendation, the warnings and the JSON document of a plan, and settings that reduce its memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS
from assistant_builder.i18n import percentage, t
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.models.catalog import CATALOG
from assistant_builder.planning.architecture import build
from assistant_builder.planning.hardware import CARDS, Machine
from assistant_builder.planning.memory import Method, base_storage
from assistant_builder.planning.plan import MAX_MEMORY_SHARE, Plan, names_bits

_MIN_TOKENS = 128  # lower bound for a reduced ``train.max_length``: shorter pairs contain too little to learn from


def cheapest_saving(plan: Plan, *methods: Method) -> dict[str, Any]:
    """Return the settings with the lowest cost that make all these methods fit; empty if they fit or none suffice.

    They are tried in this order: smaller micro-batches (slightly slower, same result), recomputed activations (one
    third slower), a lower ``train.max_length`` (the longest pairs lose facts or
    are left out; at least the mean length, so that most are kept).
    """
    if plan.fits(*methods):
        return {}
    candidates = list(_smaller_settings(plan))
    # the last one needs the least memory
    if not candidates or not plan.with_changes(candidates[-1]).fits(*methods):
        return {}
    return next(each for each in candidates if plan.with_changes(each).fits(*methods))


def _smaller_settings(plan: Plan) -> Iterator[dict[str, Any]]:
    train = plan.config.train
    current = train.micro_batch
    micro = [rows for rows in _halvings(current, 1) if train.batch_size % rows == 0]
    least = _MIN_TOKENS if plan.lengths.assumed else max(_MIN_TOKENS, math.ceil(plan.lengths.mean))
    lengths = _halvings(plan.max_length, least)
    for length, recompute, rows in itertools.product(lengths, (False, True), micro):
        changes: dict[str, Any] = {}
        if rows != current:
            changes["train.micro_batch_size"] = rows
        if recompute and not plan.lora.checkpointing:
            changes["train.gradient_checkpointing"] = "on"
        if length != plan.max_length:
            changes["train.max_length"] = length
        if changes:
            yield changes


def _halvings(value: int, minimum: int) -> list[int]:
    values = [value]
    while values[-1] // 2 >= minimum:
        values.append(values[-1] // 2)
    return values


def _as_command_line(changes: Mapping[str, Any]) -> str:
    return " ".join(f"--set {key}={value}" for key, value in changes.items())


def method_label(method: Method) -> str:
    """Return the name of a method for sentences."""
    return ARMS[method].short


@dataclass(frozen=True)
class Advice:
    """A recommendation."""

    method: str  # one of the twins, or neither
    why: str  # one or two sentences
    changes: dict[str, Any]  # settings that would make a method fit if neither does
    remedies: tuple[str, ...] = ()


@names_bits
def advise(plan: Plan) -> Advice:
    """Recommend a method for a plan."""
    lora, qlora = plan.lora, plan.qlora
    needs = {
        "lora": format_bytes(lora.expected_bytes),
        "qlora": format_bytes(qlora.expected_bytes),
        "available": format_bytes(plan.memory_bytes),
    }
    if lora.fit == "room":
        spared = max(lora.expected_bytes - qlora.expected_bytes, 0)
        fits = t("Full needs {lora} of the {available} available, so it fits comfortably.", **needs)
        saves = t("Compact would not save memory here and could lower the quality of the answers.")
        if round(spared / 1e6):
            saves = t(
                "Compact would save {spared}, which this machine does not need, and could lower the quality of the "
                "answers.",
                spared=format_bytes(spared),
            )
        return Advice(LORA.name, f"{fits} {saves}", {})
    if qlora.fit != "no":
        why = t("Compact needs {qlora} of the {available} available.", **needs)
        if lora.fit == "tight":
            problem = t("Full needs {lora} and would leave almost no free memory.", **needs)
            return Advice(QLORA.name, f"{why} {problem}", {})
        problem = t("Full needs {lora} and does not fit.", **needs)
        return Advice(QLORA.name, f"{why} {problem}", {}, advise_without_twin(plan))
    if lora.fit == "tight":
        why = t(
            "Full needs {lora} of the {available} available and just fits. Compact would not save memory here.",
            **needs,
        )
        return Advice(LORA.name, why, {})
    return advise_when_nothing_fits(plan)


def advise_without_twin(plan: Plan) -> tuple[str, ...]:
    """Return suggestions if QLoRA fits and the 16-bit arm does not: how both fit, and how to train QLoRA alone."""
    remedies = []
    changes = cheapest_saving(plan, *TWINS)
    if changes:
        remedies.append(t("Both arms fit with {changes}.", changes=_as_command_line(changes)))
    card = cheapest_card(plan, *TWINS)
    if card is not None:
        remedies.append(
            t(
                "A GPU with more memory, such as one {card}, fits the float16 twin too.",
                card=card.name,
            )
        )
    elif not changes:
        remedies.append(t("No single card of the catalog has enough memory for the float16 twin."))
    if LORA.name in plan.config.arms:
        remedies.append(
            t(
                "QLoRA alone fits: choose it with --set arms={arm} (on the page: “Arms” under Advanced). "
                "The report then cannot show how much quality {bits}-bit weights cost, because there is no 16-bit "
                "arm to compare with.",
                arm=QLORA.name,
            )
        )
    return tuple(remedies)


def advise_when_nothing_fits(plan: Plan) -> Advice:
    """Return the reason and suggestions if neither LoRA nor QLoRA fits."""
    smaller = min((plan.qlora, plan.lora), key=lambda method: method.expected_bytes)
    why = t(
        "This model does not fit with these settings: {method} needs {needed}, and {available} are available.",
        method=method_label(smaller.method),
        needed=format_bytes(smaller.expected_bytes),
        available=format_bytes(plan.memory_bytes),
    )
    remedies: list[str] = []
    arms = plan.config.arms
    changes = cheapest_saving(plan, *arms)
    command = _as_command_line(changes)
    if changes and len(arms) == 1:
        method = method_label(arms[0])
        remedies.append(t("{method} fits with {changes}.", method=method, changes=command))
    elif changes and len(arms) == 2:
        remedies.append(t("Both arms fit with {changes}.", changes=command))
    elif changes:
        remedies.append(t("All arms fit with {changes}.", changes=command))
    elif len(arms) > 1 and (changes := cheapest_saving(plan, QLORA.name)):
        command = f"{_as_command_line(changes)} --set arms={QLORA.name}"
        remedies.append(t("QLoRA fits without its float16 twin with {changes}.", changes=command))
    smaller_models = (
        replace(plan, model=entry.name, architecture=build(entry.config))
        for entry in sorted(CATALOG.values(), key=lambda entry: -entry.parameters)
        if entry.parameters < plan.architecture.parameters
    )
    other = next((each.model for each in smaller_models if each.qlora.fit != "no"), plan.model)
    if other != plan.model:
        remedies.append(
            t("The largest catalog model that fits with these settings is {model}.", model=other)
        )
    return Advice("neither", why, changes, (*remedies, _cards_for(plan)))


def _cards_for(plan: Plan) -> str:
    alone, both = cheapest_card(plan, QLORA.name), cheapest_card(plan, *TWINS)
    if alone is None:
        card = max(CARDS.values(), key=lambda card: card.memory_bytes)
        return t(
            "No single card is large enough. The model would have to be split across {number} × {card}.",
            number=cards_needed(plan.qlora.expected_bytes, card.memory_bytes),
            card=card.name,
        )
    if both is None:
        return t(
            "QLoRA fits on one {card}, its float16 twin on no single card of the catalog.",
            card=alone.name,
        )
    if both == alone:
        return t("QLoRA and its float16 twin each fit on one {card}.", card=both.name)
    names = {"card": alone.name, "other": both.name}
    return t("QLoRA fits on one {card}, its float16 twin on one {other}.", **names)


def cheapest_card(plan: Plan, *methods: Method) -> Machine | None:
    """Return the cheapest card on which each of these methods fits with the current settings, or None."""
    alone = replace(plan, shards=1, measured={})
    fitting = [card for card in CARDS.values() if replace(alone, machine=card).fits(*methods)]
    fitting.sort(key=lambda card: (card.price_per_hour or math.inf, card.memory_bytes))
    return fitting[0] if fitting else None


def cards_needed(needed: int, memory_bytes: int) -> int:
    """Return the number of cards that hold a training split evenly among them."""
    return math.ceil(needed / (MAX_MEMORY_SHARE * memory_bytes))


@names_bits
def warnings(plan: Plan) -> list[str]:
    """Return warnings about hardware, settings and model, each with what to do."""
    return [*_precision_warnings(plan), *_storage_warnings(plan), *_settings_warnings(plan)]


def _settings_warnings(plan: Plan) -> Iterator[str]:
    train, context = plan.config.train, plan.architecture.context
    if train.optimizer != "adamw" and plan.machine.device == "cpu":
        yield t(
            "train.optimizer={optimizer} needs a CUDA GPU. Use train.optimizer=adamw on a CPU.",
            optimizer=train.optimizer,
        )
    if context and train.max_length != "auto" and train.max_length > context:
        yield t(
            "train.max_length={length} is longer than the model's context. Set it to {context} tokens or fewer.",
            length=str(train.max_length),
            context=str(context),
        )
    if not plan.architecture.known:
        yield t(
            "The planner has no formula for the model family {family!r}. Weights and adapters are counted from the "
            "model's code and are exact; activations are estimated from a Llama of the same size and may be off.",
            family=plan.architecture.model_type,
        )


def _precision_warnings(plan: Plan) -> Iterator[str]:
    dtype, machine = plan.compute_dtype, plan.machine
    if dtype == "float32":
        reason = t("Computation in float32 is the only fast type of this hardware.")
        if plan.config.model.compute_dtype == "float32":
            reason = t("Computation in float32 was chosen in the settings.")
        effect = t(
            "It is about half as fast as bfloat16 and needs twice the memory for activations, without a "
            "measurable gain in quality. The stored {bits}-bit weights do not grow."
        )
        remedy = [t("Set model.compute_dtype=auto to use bfloat16.")] if machine.bfloat16 else []
        yield " ".join([reason, effect, *remedy])
    if dtype == "float16" and machine.device == "cpu":
        yield t(
            "CPUs compute in float16 about ten times slower than in bfloat16 or float32. Set "
            "model.compute_dtype=auto."
        )
    if dtype == "bfloat16" and not machine.bfloat16:
        yield t(
            "{machine} does not support bfloat16. Set model.compute_dtype to auto or float16.",
            machine=machine.title,
        )
    if dtype == "float16" and machine.device == "cuda":
        yield t(
            "Values above 65,504 overflow in float16. If the training loss becomes nan, use a GPU that supports "
            "bfloat16 (NVIDIA Ampere or later)."
        )


def _storage_warnings(plan: Plan) -> Iterator[str]:
    architecture, qlora, lora = plan.architecture, plan.qlora, plan.lora
    ratio = lora.weights_bytes / qlora.weights_bytes
    method = base_storage("qlora", plan.config.model)
    if architecture.share("experts") > 0:
        yield t(
            "{share} of this model are fused expert weights, which {method} keeps in 16 bits. QLoRA therefore "
            "reduces the base model only by a factor of {ratio:.1f}. If memory is short, choose a dense model.",
            share=percentage(f"{100 * architecture.share('experts'):.0f}"),
            method=method.library or method.label,
            ratio=ratio,
        )
    host = max(method.loading_host_bytes for method in plan.arms)
    if host:
        yield t(
            "While the base model loads, the {processes} processes together need about {memory} of main memory, "
            "until its shards are on the GPUs. Make sure that the computer has this much memory.",
            processes=plan.shards,
            memory=format_bytes(host),
        )
    if plan.machine.device != "cpu":
        return
    if method.rounds_inputs:
        if qlora.dequantized:
            yield t(
                "On a CPU, training converts the base model to {dtype} for speed. {method} therefore saves memory "
                "in chat and evaluation only, where it is slower than other storages.",
                dtype=plan.compute_dtype,
                method=method.label,
            )
    elif qlora.dequantized:
        yield t(
            "On a CPU, training, chat and evaluation convert the base model to {dtype} for speed. QLoRA therefore "
            "saves no memory here.",
            dtype=plan.compute_dtype,
        )
    else:
        yield t(
            "On a CPU, chat and evaluation convert the base model to {dtype} for speed. QLoRA therefore saves "
            "memory in training only.",
            dtype=plan.compute_dtype,
        )


@names_bits
def to_document(plan: Plan) -> dict[str, Any]:
    """Return the JSON document of ``plan --json``: bytes, seconds and the recommendation."""
    price = plan.price_per_hour()
    methods = {
        name: {**method.to_record(), "cost": method.cost(price)}
        for name, method in plan.methods.items()
    }
    machine, lengths = plan.machine, plan.lengths
    return {
        "model": plan.model,
        "parameters": plan.architecture.parameters,
        "methods": methods,
        "recommendation": {
            **asdict(advise(plan)),
            "arms_that_fit": [arm for arm in ARMS if arm in methods and plan.fits(arm)],
        },
        "warnings": warnings(plan),
        "machine": {
            "name": machine.name,
            "device": machine.device,
            "memory_bytes": machine.memory_bytes,
            "free_bytes": machine.free_bytes,
            "price_per_hour": price,
            "compute_dtype": plan.compute_dtype,
        },
        "training": {
            "pairs": plan.pairs,
            "steps": plan.lora.work.steps,
            "tokens": plan.lora.work.tokens,
            "mean_tokens": lengths.mean,
            "longest_tokens": plan.batch.length,
            "assumed": lengths.assumed,
            "micro_batch_size": plan.batch.rows,
            "rank": plan.config.train.rank,
        },
        "correction": {
            "runs": plan.measured_runs.runs,
            "memory": {name: plan.methods[name].factor for name in methods},
        },
    }
