"""Other people's kernels: applied to the model and nothing else of it, or refused in a sentence. No GPU is needed."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from assistant_builder.child_process import configure_libraries
from assistant_builder.errors import AssistantBuilderError, ModelError
from assistant_builder.training.gpu import apply_kernels
from tests.tiny_models import small_llama


def model() -> LlamaForCausalLM:
    return small_llama(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=64
    ).train()


def liger(
    monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any], apply: Callable[..., None]
) -> None:
    patches: Any = ModuleType("liger_kernel.transformers.monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = kinds
    patches._apply_liger_kernel_to_instance = apply
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, patches.__name__, patches)


def test_liger_changes_the_model_but_not_the_loss(monkeypatch):
    base, seen = model(), []
    liger(monkeypatch, {"llama": None}, lambda **given: seen.append(given))
    apply_kernels(base, "liger")
    assert seen == [{"model": base, "cross_entropy": False, "fused_linear_cross_entropy": False}]
    apply_kernels(base, "plain")
    assert len(seen) == 1


def test_liger_without_the_model_or_the_package_is_refused(monkeypatch):
    liger(monkeypatch, {"qwen2": None}, lambda **given: None)
    with pytest.raises(ModelError, match="'llama'.*train.kernels=fused"):
        apply_kernels(model(), "liger")
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.delitem(sys.modules, "liger_kernel.transformers")
    monkeypatch.delitem(sys.modules, "liger_kernel.transformers.monkey_patch")
    with pytest.raises(AssistantBuilderError, match=r"pip install -e '\.\[gpu\]'"):
        apply_kernels(model(), "liger")


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # the compiler looks at it everywhere
def test_every_decoder_layer_is_compiled_for_rows_of_any_length(monkeypatch):
    from torch._dynamo.testing import CompileCounter

    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    configure_libraries()  # as every step does
    base, counter, seen = model(), CompileCounter(), []
    ids = torch.arange(12).view(2, 6)
    wanted, whole = base(input_ids=ids).logits, nn.Module.compile

    def counted(
        self: nn.Module, **given: Any
    ) -> None:  # a backend that compiles to nothing and counts
        seen.append((self, given))
        whole(self, backend=counter, **given)

    monkeypatch.setattr(nn.Module, "compile", counted)
    apply_kernels(base, "compile")
    assert seen == [(layer, {"dynamic": True}) for layer in base.model.layers]
    assert torch.allclose(base(input_ids=ids).logits, wanted, atol=1e-5) and counter.frame_count > 0
    del base.model.layers
    with pytest.raises(ModelError, match="train.kernels=fused"):
        apply_kernels(base, "compile")
