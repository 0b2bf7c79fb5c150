"""The GPU path on a CUDA device that torch only pretends (``card.py``): each file of cases in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.pretended import guard

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(Path(__file__).parent.glob("cases_*.py"))


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[Path, Future[subprocess.CompletedProcess[str]]]]:
    """Two files at a time."""
    if problem := guard.missing():
        pytest.skip(problem)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    guard.build()
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(subprocess.run, guard.command(str(path)), cwd=ROOT, capture_output=True, text=True,
                                 check=False, env=environment) for path in FILES}


@pytest.mark.long
@pytest.mark.parametrize("cases", FILES, ids=lambda path: path.stem)
def test_the_gpu_path_on_a_pretended_card(cases: Path, runs: dict[Path, Any]) -> None:
    done = runs[cases].result()
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-4_000:]}"
