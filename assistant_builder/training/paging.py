"""Paged optimizers of bitsandbytes: their state lies in memory that CUDA moves between GPU and RAM (QLoRA paper).

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_STATES = ("state1", "state2")
"""The moments, which are paged; what scales them is small and is not (``bitsandbytes/optim/optimizer.py``)."""


def is_paged(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer, perhaps in accelerate's wrapper, pages its state."""
    return bool(getattr(_inner(optimizer), "is_paged", False))


def load_paged_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state of a paged optimizer into paged memory.

    ``load_state_dict`` alone puts it into ordinary tensors on the GPU, where it stays: it would take the memory that
    paging is to save, already while it is loaded.

    Args:
        optimizer: A paged optimizer that has not stepped yet, perhaps in accelerate's wrapper.
        state: What its ``state_dict`` gave, on the CPU.
    """
    inner = _inner(optimizer)
    inner.load_state_dict(state, move_to_device=False)  # the rest is moved by its first step
    for parameter, entry in inner.state.items():
        for name in _STATES:
            if name in entry:
                buffer = inner.get_state_buffer(parameter, dtype=entry[name].dtype)  # paged, unless it is small
                entry[name] = buffer.copy_(entry[name])


def _inner(optimizer: torch.optim.Optimizer) -> Any:
    """The optimizer itself."""
    return getattr(optimizer, "optimizer", optimizer)
