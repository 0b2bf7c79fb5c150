"""Lets autograd accept tensors of a CUDA device that does not exist: the device guard and hooks of ``guard.cpp``.

They must be registered before torch is imported, so the cases run in a process of their own (:func:`command`).
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.version import Version

SOURCE = Path(__file__).with_name("guard.cpp")
TORCH = "2.13"
"""The first release whose fake tensors accept the guard."""
_RUN = (
    "import sys; from tests.pretended import guard; guard.register(); import pytest; "
    "sys.exit(pytest.main(sys.argv[1:]))"
)


def missing() -> str:
    """What the pretended card lacks on this machine, as a sentence; empty if it can be used. Does not import torch."""
    if sys.platform != "linux":
        return "The pretended card runs on Linux only."
    if Version(importlib.metadata.version("torch")) < Version(TORCH):
        return f"The pretended card needs torch {TORCH} or later."
    if any((_torch() / "lib").glob("libtorch_cuda*")):
        return "The pretended card needs a CPU build of torch, because a CUDA build has a device guard of its own."
    if shutil.which("g++") is None:
        return "The pretended card needs g++, which compiles its device guard."
    return ""


def command(*arguments: str) -> list[str]:
    """The command line of pytest with the guard; it runs in the root of the repository."""
    return [
        sys.executable,
        "-c",
        _RUN,
        "-q",
        "-rP",  # what a case prints are the figures of docs/gpu.md
        "-o",
        "filterwarnings=ignore",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]


def register() -> None:
    """Register the guard."""
    assert "torch" not in sys.modules, "torch asks for the hooks when it is imported"
    ctypes.CDLL(str(build())).pretend()


def build() -> Path:
    """Compile the guard once per installation of torch, into the cache of the tests."""
    cache = Path(
        os.environ.get("ASSISTANT_BUILDER_TEST_CACHE")
        or Path.home() / ".cache" / "assistant-builder-tests"
    )
    key = hashlib.sha256(
        # the library names the folder of torch that it was linked with
        SOURCE.read_bytes() + f"{importlib.metadata.version('torch')} {_torch()}".encode()
    ).hexdigest()[:16]
    library = cache / f"pretended-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made, torch = library.with_suffix(f".{os.getpid()}"), _torch()
        subprocess.run(
            [
                "g++",
                "-O1",
                "-std=c++20",
                "-shared",
                "-fPIC",
                f"-I{torch}/include",
                f"-I{torch}/include/torch/csrc/api/include",
                str(SOURCE),
                "-o",
                str(made),
                f"-L{torch}/lib",
                "-ltorch_cpu",
                "-lc10",
                f"-Wl,-rpath,{torch}/lib",
            ],
            check=True,
        )
        made.rename(library)
    return library


def _torch() -> Path:
    """The folder of the package."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
