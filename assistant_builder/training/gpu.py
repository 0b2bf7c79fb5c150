"""Settings for training on GPUs: kernels, masks without waiting, deterministic algorithms, paged optimizers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assistant_builder.errors import AssistantBuilderError, ModelError, install_command
from assistant_builder.i18n import m
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


Kernels = Literal["fused", "plain", "liger", "compile"]
ATTENTION = "sdpa_without_sync"  # name of the attention in the registry of transformers
_padded: ContextVar[bool] = ContextVar("padded", default=True)


def apply_gpu_kernels(model: PeftModel, kernels: Kernels, *, sharded: bool) -> None:
    """Apply the kernels that ``train.kernels`` names to a frozen base with adapters on a GPU.

    ``plain`` changes nothing. Layers with a common input are fused with ``fused`` and ``liger``, which replaces other
    layers; not with ``compile``, because the compiler cannot trace the cache of a group and fuses casts and dropout
    itself; and not in a model that FSDP shards, because it gathers the adapters without a new version.

    Raises:
        AssistantBuilderError, ModelError: See :func:`apply_kernels`.
    """
    base = model.get_base_model()
    apply_kernels(base, kernels)
    if kernels == "plain":
        return
    if base.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, _mask_without_sync)
        base.set_attn_implementation(ATTENTION)
    if kernels != "compile" and not sharded:
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


def apply_kernels(base: PreTrainedModel, kernels: Kernels) -> None:
    """Apply third-party kernels to a base on a GPU; ``fused`` and ``plain`` use none.

    Raises:
        AssistantBuilderError: liger-kernel is not installed.
        ModelError: liger-kernel does not support the model, or the model has no list of decoder layers to compile.
    """
    if kernels == "liger":
        _apply_liger(base)
    elif kernels == "compile":
        layers = getattr(getattr(base, base.base_model_prefix, base), "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(
                m(
                    "models of type {model_type!r} have no list of decoder layers to compile",
                    model_type=base.config.model_type,
                ),
                where="train.kernels",
                remedy=m("Set {train.kernels=fused}"),
            )
        # steps set it, because some libraries compile by default
        os.environ.pop("TORCHDYNAMO_DISABLE", None)
        for layer in layers:  # rows differ in length: static shapes would be compiled for hours
            layer.compile(dynamic=True)


def _apply_liger(base: PreTrainedModel) -> None:
    try:
        from liger_kernel.transformers.monkey_patch import (
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise AssistantBuilderError(
            m(
                "{train.kernels=liger} needs liger-kernel, which cannot be imported: {error}",
                error=error,
            ),
            where="train.kernels",
            remedy=m(
                "Install it with {install_command}, or set {train.kernels=fused}",
                install_command=install_command("gpu"),
            ),
        ) from error
    kind = base.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ModelError(
            m("liger-kernel does not support models of type {kind!r}", kind=kind),
            where="train.kernels",
            remedy=m("Set {train.kernels=fused} or {train.kernels=compile}"),
        )
    _apply_liger_kernel_to_instance(
        model=base, cross_entropy=False, fused_linear_cross_entropy=False
    )
