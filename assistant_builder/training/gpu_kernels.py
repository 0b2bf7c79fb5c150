"""Other people's faster kernels for training on a GPU, as the settings choose; both arms have the same.

Nothing here is ours: `liger-kernel <https://github.com/linkedin/Liger-Kernel>`_ replaces norms, rotary embeddings and
the gated product of a known model in place, ``torch.compile`` compiles each decoder layer. The loss stays our own, over
supervised positions in chunks. Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import os
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from assistant_builder.errors import AssistantBuilderError, ModelError


def choose_kernels(base: PreTrainedModel, kernels: Literal["plain", "liger", "compile"]) -> None:
    """Let a model compute with the kernels that ``train.kernels`` names.

    Args:
        base: The base, on a GPU, adapters attached.
        kernels: ``plain`` changes nothing.

    Raises:
        AssistantBuilderError: liger-kernel is not installed.
        ModelError: liger-kernel does not know the model, or it has no list of decoder layers to compile.
    """
    if kernels == "liger":
        _apply_liger(base)
    elif kernels == "compile":
        os.environ.pop("TORCHDYNAMO_DISABLE", None)  # steps set it, for the libraries that would compile unasked
        for layer in _decoder_layers(base):
            layer.compile(dynamic=True)  # rows differ in length; compiled for each they would be compiled for hours


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
        raise ModelError(f"liger-kernel does not know models of the kind {kind!r}", where="train.kernels",
                         remedy="Set train.kernels=plain or train.kernels=compile")
    _apply_liger_kernel_to_instance(model=base, cross_entropy=False, fused_linear_cross_entropy=False)


def _decoder_layers(base: PreTrainedModel) -> nn.ModuleList:
    layers = getattr(getattr(base, base.base_model_prefix, base), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"models of the kind {base.config.model_type!r} have no list of decoder layers to compile",
                         where="train.kernels", remedy="Set train.kernels=plain")
    return layers
