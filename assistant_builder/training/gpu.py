"""Settings for training on GPUs: kernels, masks without waiting, deterministic algorithms, paged optimizers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assistant_builder.training.fused_lora import fuse_lora

logger = logging.getLogger(__name__)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic algorithms in the context; if not ``wanted``, change nothing."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    # would cost a pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False
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
        logger.warning(
            "Training without deterministic algorithms; another run may give other results: %s",
            error,
        )
        return False
    return True


# the moments, which are paged; their scales are small and are not (``bitsandbytes/optim/optimizer.py``)
_STATES = ("state1", "state2")


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
            if name in entry:  # paged unless it is small
                buffer = inner.get_state_buffer(parameter, dtype=entry[name].dtype)
                entry[name] = buffer.copy_(entry[name])


def _inner(optimizer: torch.optim.Optimizer) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


Kernels = Literal["fused", "plain"]
ATTENTION = "sdpa_without_sync"  # name of the attention in the registry of transformers
_padded: ContextVar[bool] = ContextVar("padded", default=True)


def apply_gpu_kernels(model: PeftModel, kernels: Kernels, *, sharded: bool) -> None:
    """Apply the kernels that ``train.kernels`` names to a frozen base with adapters on a GPU.

    ``plain`` changes nothing. ``fused`` fuses layers with a common input, but not in a model that FSDP shards, because
    it gathers the adapters without a new version.
    """
    if kernels == "plain":
        return
    base = model.get_base_model()
    if base.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, _mask_without_sync)
        base.set_attn_implementation(ATTENTION)
    if not sharded:
        fuse_lora(model)


@contextmanager
def rows_are_padded(padded: bool) -> Iterator[None]:
    """In the context, whether the rows of a batch differ in length; without it they are assumed to."""
    token = _padded.set(padded)
    try:
        yield
    finally:
        _padded.reset(token)


def _mask_without_sync(
    *args: Any,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **more: Any,
) -> torch.Tensor | None:
    # the mask of ``sdpa``; None for rows of equal length, so that flash attention can be used. transformers reads the
    # padding mask to learn whether they are, and the CPU has to wait; here the collator knows it.
    padded = attention_mask is not None and _padded.get()
    return sdpa_mask(
        *args,
        attention_mask=attention_mask if padded else None,
        allow_is_causal_skip=allow_is_causal_skip and not padded,
        **more,
    )
