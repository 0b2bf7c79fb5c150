"""The bundled model on the device against the same model on the CPU, position by position.

bitsandbytes picks other kernels for one row, for some dozens and for hundreds (``gemm_4bit`` of its
``backends/cuda/ops.py``), so that a fault in one of them shows in prompts of one length alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import DEVICE, TOLERANCE

pytestmark = [pytest.mark.gpu, pytest.mark.train]
KL = {"bfloat16": 5e-3, "float16": 5e-4}
"""Mean divergence in nats. bfloat16 rounds 30 layers to 3 digits; float16 has an eighth of its rounding error."""


@pytest.fixture(scope="module")
def load(model_cache: Path) -> Callable[[str, str, str], Any]:
    """Loads the bundled base by storage, compute dtype and device; each once."""
    from assistant_builder.models.loading import BaseSpec, load_base

    loaded: dict[tuple[str, str, str], Any] = {}

    def get(storage: str, dtype: str, device: str) -> Any:
        key = (storage, dtype, device)
        if key not in loaded:
            folder = model_cache / "models" / "smollm2-135m-instruct"
            loaded[key] = load_base(BaseSpec(folder, storage, True, dtype, device=device))  # type: ignore[arg-type]
        return loaded[key]

    return get


def log_probabilities(model: Any, tokens: int) -> Any:
    """Log-probabilities [tokens, vocabulary], float32 on the CPU, after a text of so many tokens."""
    import torch

    ids = torch.arange(tokens).reshape(1, -1) * 311 % 49_000
    with torch.no_grad():
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0]
    assert bool(logits.isfinite().all())
    return torch.log_softmax(logits.float().cpu(), dim=-1)


@pytest.mark.parametrize("rows", [1, 64, 512])
@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_logits_are_those_of_the_cpu(
    load: Callable[[str, str, str], Any], storage: str, rows: int, dtype: str, tell
) -> None:
    expected = log_probabilities(load(storage, "float32", "cpu"), rows)
    found = log_probabilities(load(storage, dtype, DEVICE), rows)
    divergence = float((expected.exp() * (expected - found)).sum(dim=-1).mean())
    likely = expected.argmax(dim=-1, keepdim=True)
    moved = float((expected.gather(1, likely) - found.gather(1, likely)).mean().abs())
    tell(f"{storage} in {dtype}, {rows} rows: mean divergence from the CPU {divergence:.1e} nats, "
         f"loss of its top token moved by {moved:.1e}")
    assert divergence < KL[dtype] and moved < TOLERANCE[dtype]


def test_4bit_weights_are_those_of_the_cpu(load: Callable[[str, str, str], Any]) -> None:
    """Quantized on the device: the same 4-bit values but where a value lies between two levels."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from assistant_builder.models.layers import dequantized

    cpu, device = (dict(load("nf4", "float32" if place == "cpu" else "bfloat16", place).named_modules())
                   for place in ("cpu", DEVICE))
    layers = [name for name, layer in cpu.items() if isinstance(layer, Linear4bit)]
    assert len(layers) == 30 * 7
    apart, whole = 0.0, 0.0
    for name in layers:
        expected, found = dequantized(cpu[name]).float(), dequantized(device[name]).float().cpu()
        apart += float(torch.linalg.vector_norm(expected - found) ** 2)
        whole += float(torch.linalg.vector_norm(expected) ** 2)
    assert (apart / whole) ** 0.5 < 1e-2  # rounding to 4 bits itself is off by about 1e-1
