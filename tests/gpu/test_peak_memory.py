"""Planned against measured peak memory of training the bundled model, on rows that all have the full length."""

from itertools import product
from typing import Any

import pytest

from assistant_builder.planning.memory_check import KNOWN_ERROR
from benchmarks.peak_memory import measure_all, predicted_bytes
from tests.gpu.conftest import ARMS, DEVICE

pytestmark = [pytest.mark.gpu, pytest.mark.train]
SHAPES = list(product((1, 8), (64, 512) if DEVICE == "cuda" else (64,)))
"""Rows and tokens; 8 rows of 512 tokens take a CPU minutes."""
WORKSPACES = 128 * 2**20
"""Workspaces of cuBLAS, which PyTorch allocates among the tensors; the plan counts them as the program's."""


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("rows", "tokens"), SHAPES)
def test_planned_peak_is_within_the_known_error(bundled_models, arm, rows, tokens, tell):
    runs: list[dict[str, Any]] = []
    measure_all(
        [{"arm": arm, "batch": rows, "length": tokens, "checkpointing": "off"}], {}, runs.append
    )
    (run,) = runs
    assert run["device"] == DEVICE
    told, seen = predicted_bytes(run, {}), run["peak_memory_bytes"]
    tell(
        f"{arm}, {rows} rows of {tokens} tokens: planned {told / 1e9:.3f} GB, measured {seen / 1e9:.3f} GB "
        f"({told / seen - 1:+.1%})"
    )
    assert told == pytest.approx(seen, rel=KNOWN_ERROR, abs=WORKSPACES)
