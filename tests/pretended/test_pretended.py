"""The GPU path on a CUDA device that torch only pretends (``card.py``): each file of cases in a process of its own."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pretended import guard

ROOT = Path(__file__).resolve().parents[2]
LONGEST = ("cases_steps", "cases_peaks")
FILES = sorted(
    Path(__file__).parent.glob("cases_*.py"), key=lambda path: (path.stem not in LONGEST, path.stem)
)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
) -> Iterator[dict[Path, Future[subprocess.CompletedProcess[str]]]]:
    """The chosen files, two at a time."""
    if problem := guard.missing():
        pytest.skip(problem)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    guard.build()
    chosen = [
        item.callspec.params["cases"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(2) as pool:
        yield {
            path: pool.submit(
                subprocess.run,
                guard.command(str(path)),
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            for path in chosen
        }


@pytest.mark.long
@pytest.mark.parametrize("cases", FILES, ids=lambda path: path.stem)
def test_the_gpu_path_on_a_pretended_card(cases, runs):
    done = runs[cases].result()
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-4_000:]}"


def test_what_the_card_lacks_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(guard.sys, "platform", "linux")
    monkeypatch.setattr(guard.importlib.metadata, "version", lambda name: "2.13.0")
    monkeypatch.setattr(guard, "_torch", lambda: tmp_path)
    monkeypatch.setattr(guard.shutil, "which", lambda name: "/usr/bin/g++")
    assert guard.missing() == ""
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    assert guard.missing() == "The pretended card needs g++, which compiles its device guard."
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    assert "CPU build of torch" in guard.missing()
