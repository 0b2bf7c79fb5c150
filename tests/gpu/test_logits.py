"""The bundled model on the device against the same model on the CPU, position by position.

bitsandbytes picks other kernels for one row, for some dozens and for hundreds (``gemm_4bit`` of its
``backends/cuda/ops.py``), so that a fault in one of them shows in prompts of one length alone.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import DEVICE

pytestmark = [pytest.mark.gpu, pytest.mark.train]
TIMES = 3.0
"""How much farther from the CPU in float32 the device may be than the CPU in the same dtype: both only round."""
_READ = 32
"""Tokens that are read at once before single ones follow."""


@pytest.fixture(scope="module")
def load(model_cache: Path) -> Callable[[str, str, str], Any]:
    """Loads the bundled base by storage, compute dtype and device; each once."""
    from assistant_builder.models.loading import BaseSpec, load_base

    loaded: dict[tuple[str, str, str], Any] = {}

    def get(storage: str, dtype: str, device: str) -> Any:
        key = (storage, dtype, device)
        if key not in loaded:
            folder = model_cache / "models" / "smollm2-135m-instruct"
            loaded[key] = load_base(BaseSpec(folder, storage, True, dtype, device=device))
        return loaded[key]

    return get


def log_probabilities(model: Any, rows: int) -> Any:
    """Log-probabilities [positions, vocabulary], float32 on the CPU, computed in blocks of rows."""
    import torch

    ids = (torch.arange(max(rows, 2 * _READ)) * 311 % 49_000).reshape(1, -1).to(model.device)
    with torch.no_grad():
        logits = (
            model(input_ids=ids, use_cache=False).logits[0] if rows > 1 else one_by_one(model, ids)
        )
    assert bool(logits.isfinite().all())
    return torch.log_softmax(logits.float().cpu(), dim=-1)


def one_by_one(model: Any, ids: Any) -> Any:
    """Logits of the tokens after the first ones, computed one at a time as in a chat."""
    import torch
    from transformers import DynamicCache

    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache = {name: DynamicCache(config=model.config), "use_cache": True}
    model(input_ids=ids[:, :_READ], **cache)
    return torch.cat(
        [
            model(input_ids=ids[:, place : place + 1], **cache).logits[0]
            for place in range(_READ, ids.shape[1])
        ]
    )


@pytest.mark.parametrize("rows", [1, 64, 512])
@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_logits_match_the_cpu(load, storage, rows, dtype, tell):
    expected = log_probabilities(load(storage, "float32", "cpu"), rows)
    found, usual = (
        float(
            (expected.exp() * (expected - log_probabilities(load(storage, dtype, device), rows)))
            .sum(dim=-1)
            .mean()
        )
        for device in (DEVICE, "cpu")
    )
    tell(
        f"{storage} in {dtype}, {rows} rows: mean divergence from the CPU in float32 {found:.1e} nats, "
        f"of the CPU itself {usual:.1e}"
    )
    assert found < TIMES * usual


def test_4bit_weights_match_the_cpu(load):
    """4-bit values quantized on the device are equal, except for values halfway between two levels."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from assistant_builder.models.lora_layers import computed_weight

    cpu, device = (
        dict(load("nf4", "float32" if place == "cpu" else "bfloat16", place).named_modules())
        for place in ("cpu", DEVICE)
    )
    layers = [name for name, layer in cpu.items() if isinstance(layer, Linear4bit)]
    assert len(layers) == 30 * 7
    apart, whole = 0.0, 0.0
    for name in layers:
        expected, found = (
            computed_weight(cpu[name]).float(),
            computed_weight(device[name]).float().cpu(),
        )
        apart += float(torch.linalg.vector_norm(expected - found) ** 2)
        whole += float(torch.linalg.vector_norm(expected) ** 2)
    assert (apart / whole) ** 0.5 < 1e-2  # rounding to 4 bits itself is off by about 1e-1
