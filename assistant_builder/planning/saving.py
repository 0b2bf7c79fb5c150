"""Settings that take less memory: what a training has to give up so that it fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from assistant_builder.planning.plan import Plan
from assistant_builder.planning.storage import Method

_SHORTEST = 128
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
    for length, recompute, rows in itertools.product(_halvings(train.max_length, _SHORTEST), (False, True), micro):
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


def written(changes: Mapping[str, Any]) -> str:
    """Changes as the command line takes them: ``--set train.micro_batch_size=2``."""
    return " ".join(f"--set {key}={value}" for key, value in changes.items())
