"""Tensors that the code makes are put where the model is: found without a GPU, on a device that torch only pretends.

``FakeTensorMode`` follows shapes and devices without computing, and refuses to mix devices. A build without CUDA cannot
pretend CUDA; the device of its lazy tensors will do, as no code here knows that one either.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from assistant_builder.inference.packed_batch import PackedModel, SequenceChunk, SlottedKVCache
from assistant_builder.inference.padded_batch import LeftPadding
from assistant_builder.planning import memory
from assistant_builder.training import cpu_kernels
from tests.tiny_models import sizes_of, small_llama

DEVICE = torch.device("lazy:0")


@pytest.fixture(autouse=True)
def pretending() -> Iterator[None]:
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


def moved(model: Any) -> Any:
    """The model on the device: only tensors that are made there may be there."""
    for layer in model.modules():
        for name, value in list(layer.named_parameters(recurse=False)):
            there = torch.empty(value.shape, dtype=torch.bfloat16, device=DEVICE)
            setattr(layer, name, torch.nn.Parameter(there, requires_grad=False))
        for name, value in list(layer.named_buffers(recurse=False)):
            layer.register_buffer(
                name, torch.empty(value.shape, dtype=value.dtype, device=DEVICE), persistent=False
            )
    return model


def llama() -> Any:
    return moved(small_llama())


def gemma() -> Any:
    return moved(Gemma3ForCausalLM(Gemma3TextConfig(**sizes_of("gemma3_text"))))


def test_devices_may_not_be_mixed_here():
    with pytest.raises(Exception, match="same device"):
        torch.empty(3, device=DEVICE) + torch.empty(3)


@pytest.mark.parametrize("make", [llama, gemma])
def test_rows_are_read_where_the_model_is(make):
    model = make()
    rows, slots = PackedModel(model, 0), SlottedKVCache(3, 128)
    step = rows.prepare_prefill(
        slots, [SequenceChunk(0, 0, [1, 2, 3]), SequenceChunk(2, 0, [4, 5])], rows=16
    )
    assert rows.logits(slots, step, [2, 4], block=8).device == DEVICE
    step = rows.prepare_decode(slots, [SequenceChunk(0, 3, [1]), SequenceChunk(2, 2, [4])], rows=8)
    assert rows.logits(slots, step, [0, 1]).device == DEVICE
    others = SlottedKVCache(2, 256)
    others.fill_prefix(slots.prefix_states(2))
    assert {tensor.device for pair in others.stored for tensor in pair} == {DEVICE}


def test_a_padded_batch_is_computed_where_the_model_is():
    batch = LeftPadding(0)(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [1, 2], "labels": [1, 2]}]
    )
    given = {key: batch[key].to(DEVICE) for key in ("input_ids", "attention_mask", "position_ids")}
    assert (
        llama()(
            **given, logits_to_keep=torch.tensor([0, 1], device=DEVICE), use_cache=False
        ).logits.device
        == DEVICE
    )


def test_the_loss_is_computed_where_the_logits_are(monkeypatch):
    monkeypatch.setitem(memory.LOSS_ROWS, DEVICE.type, 4)
    logits = torch.empty(10, 128, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    loss = cpu_kernels.ChunkedCrossEntropySum.apply(
        logits, torch.zeros(10, dtype=torch.long, device=DEVICE)
    )
    loss.backward()
    assert loss.device == logits.grad.device == DEVICE
