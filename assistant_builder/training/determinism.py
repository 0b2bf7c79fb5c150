"""Ask torch for deterministic algorithms in a GPU's training steps.

On a GPU the backward pass of attention, and sums by index, add in whatever order their threads arrive: two runs with
the same seed differ, and so does a run that was interrupted. Torch has other algorithms, and raises an error where it
has none. With ``warn_only`` it would keep attention as it is (``attention_backward.cu``), so the strict mode is used,
for the training step alone, and only after a small trial step went through. The kernels of bitsandbytes, liger and
NCCL are outside of what torch checks.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic algorithms inside; where they are not wanted, change nothing."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs a pass over every new tensor
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def has_deterministic_algorithms(step: Callable[[], object]) -> bool:
    """Whether torch has deterministic algorithms for everything that a model does in training.

    Args:
        step: Computes a loss and its gradients; what it raises for other reasons is passed on.
    """
    try:
        with deterministic_algorithms(True):
            step()
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        logger.warning("Trained without deterministic algorithms, so another run may differ: %s", error)
        return False
    return True
