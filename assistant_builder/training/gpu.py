"""Settings for training on GPUs: deterministic algorithms, paged optimizers, and third-party kernels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from assistant_builder.errors import AssistantBuilderError, ModelError

logger = logging.getLogger(__name__)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic algorithms in the context; if not ``wanted``, change nothing."""
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
    """Whether torch has deterministic algorithms for all operations of a training step: a loss and its gradients."""
    try:
        with deterministic_algorithms(True):
            step()
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        logger.warning("Training without deterministic algorithms; another run may give other results: %s", error)
        return False
    return True


_STATES = ("state1", "state2")
"""The moments, which are paged; their scales are small and are not (``bitsandbytes/optim/optimizer.py``)."""


def is_paged(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer, also in accelerate's wrapper, pages its state."""
    return bool(getattr(_inner(optimizer), "is_paged", False))


def load_paged_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the ``state_dict`` of a paged optimizer, which is on the CPU, into paged memory before the first step.

    ``load_state_dict`` alone would put it into ordinary GPU tensors, which take the memory that paging saves.
    """
    inner = _inner(optimizer)
    inner.load_state_dict(state, move_to_device=False)  # the first step moves the rest
    for parameter, entry in inner.state.items():
        for name in _STATES:
            if name in entry:
                buffer = inner.get_state_buffer(parameter, dtype=entry[name].dtype)  # paged unless it is small
                entry[name] = buffer.copy_(entry[name])


def _inner(optimizer: torch.optim.Optimizer) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


def apply_kernels(base: PreTrainedModel, kernels: Literal["plain", "liger", "compile"]) -> None:
    """Apply the kernels that ``train.kernels`` names to a base on a GPU; ``plain`` changes nothing.

    Raises:
        AssistantBuilderError: liger-kernel is not installed.
        ModelError: liger-kernel does not support the model, or the model has no list of decoder layers to compile.
    """
    if kernels == "liger":
        _apply_liger(base)
    elif kernels == "compile":
        layers = getattr(getattr(base, base.base_model_prefix, base), "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(f"models of type {base.config.model_type!r} have no list of decoder layers to compile",
                             where="train.kernels", remedy="Set train.kernels=plain")
        os.environ.pop("TORCHDYNAMO_DISABLE", None)  # steps set it, because some libraries compile by default
        for layer in layers:
            layer.compile(dynamic=True)  # rows differ in length: static shapes would be compiled for hours


def _apply_liger(base: PreTrainedModel) -> None:
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance
    except ImportError as error:
        raise AssistantBuilderError(
            f"train.kernels=liger needs liger-kernel, which cannot be imported: {error}", where="train.kernels",
            remedy="Install it with pip install 'assistant-builder[gpu]', or set train.kernels=plain",
        ) from error
    kind = base.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ModelError(f"liger-kernel does not support models of type {kind!r}", where="train.kernels",
                         remedy="Set train.kernels=plain or train.kernels=compile")
    _apply_liger_kernel_to_instance(model=base, cross_entropy=False, fused_linear_cross_entropy=False)
