"""A layer that another one replaces is freed at once, so that a model is never in memory twice."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from assistant_builder.config import TrainConfig
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.models.lora_layers import (
    dequantize_to_compute_dtype,
    hold_in_compute_dtype,
    merge,
    round_linear,
)
from assistant_builder.quantization import METHODS, QuantizationMethod

pytestmark = pytest.mark.train
WIDTH, BLOCKS = 64, 8
LAYER = WIDTH * 2 * WIDTH
"""Weights of the largest linear layer."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive: those of a model, and those that operations make."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._storages: dict[StorageWeakRef, int] = {}
        for value in (*model.parameters(), *model.buffers()):
            self._see(value)
        self.before = self.peak = self.now

    def _see(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        self._storages[StorageWeakRef(storage)] = (
            storage.nbytes() if value.device.type == "cpu" else 0
        )

    @property
    def now(self) -> int:
        self._storages = {each: size for each, size in self._storages.items() if not each.expired()}
        return sum(self._storages.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._see(value)
        self.peak = max(self.peak, self.now)
        return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("llama")
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "llama",
            vocab_size=32,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).to(torch.float16).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Without the collection of cycles, which would free some layers by chance."""
    gc.disable()
    yield
    gc.enable()


def base(folder: Path, storage: str = "float16", dtype: str = "bfloat16") -> Any:
    return load_base(BaseSpec(folder, storage, True, dtype))


def adapted(folder: Path, storage: str = "float16") -> Any:
    return add_adapter(base(folder, storage), TrainConfig(rank=2), 0)


def load_whole(model: Any) -> None:
    """Quantize as the loading of a method does that cannot quantize while it reads."""
    QuantizationMethod.load(
        METHODS["nf4"],
        lambda: model,
        double_quant=True,
        compute_dtype=torch.bfloat16,
        device="cpu",
        sharded=False,
    )


@pytest.mark.parametrize(
    ("make", "change", "most"),
    [
        (base, lambda model: hold_in_compute_dtype(model, torch.bfloat16, "cuda"), 4),
        (adapted, lambda model: hold_in_compute_dtype(model, torch.bfloat16, "cuda"), 4),
        (
            lambda folder: adapted(folder, "nf4"),
            lambda model: dequantize_to_compute_dtype(model, torch.bfloat16),
            4,
        ),
        (adapted, merge, 16),  # sums in float32
        (lambda folder: adapted(folder, "nf4"), merge, 24),
        (
            lambda folder: merge(adapted(folder)),
            lambda model: round_linear(model, "Q4_0", torch.bfloat16),
            16,
        ),
        (lambda folder: base(folder, dtype="float16"), load_whole, 4),
    ],
    ids=["hold", "hold-adapted", "dequantize", "merge", "merge-nf4", "round", "quantize"],
)
def test_a_transition_needs_a_few_layers_more_than_the_larger_model(folder, make, change, most):
    """At most so many bytes for each weight of the largest layer; the model itself has 72 of them."""
    model = make(folder)
    live = LiveBytes(model)
    with live:
        change(model)
    gc.collect()
    assert live.peak <= max(live.before, live.now) + most * LAYER
