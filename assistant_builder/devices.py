"""The GPUs and CPU features of this machine. A child process asks torch for the GPUs."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.child_process import python_command, python_environment

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
              "GPU_DEVICE_ORDINAL")
"""What decides which cards torch sees, and in which order."""
_TORCH_SECONDS = 60
_SMI_SECONDS = 5
_RETRY_SECONDS = 300
"""After a failure nobody is asked again for as long: the page asks often, and a driver that hangs keeps hanging."""
_FREE_SECONDS = 60
"""How long free memory that a child process measured is taken to be true: a child takes seconds."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it.

    Attributes:
        name: Of the card.
        uuid: Its UUID without the prefix ``GPU-`` or ``MIG-``; empty where torch does not know it.
        memory_bytes: Its memory.
        bfloat16: Whether its hardware computes in bfloat16.
        problem: Why torch cannot compute on it; empty where it can.
        free_bytes: What of the memory is free; None where it was not measured.
    """

    name: str
    uuid: str
    memory_bytes: int
    bfloat16: bool
    problem: str = ""
    free_bytes: int | None = None


@dataclass(frozen=True)
class GpuReport:
    """What torch answered.

    Attributes:
        gpus: The cards that processes of this environment see, in torch's order.
        build: What torch was built for: ``CUDA 13.0``, ``ROCm 7.2``; empty: for the processor alone.
        problem: Why no card is seen although there may be one; empty where nothing is wrong.
        failed: Whether torch could not be asked.
    """

    gpus: tuple[Gpu, ...] = ()
    build: str = ""
    problem: str = ""
    failed: bool = False

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """The cards that a training can use: those before the first that torch cannot compute on."""
        count = next((place for place, gpu in enumerate(self.gpus) if gpu.problem), len(self.gpus))
        return self.gpus[:count]


_lock = threading.Lock()
_reports: dict[tuple[str | None, ...], tuple[float, GpuReport]] = {}
_free_memory: dict[tuple[str | None, ...], tuple[float, tuple[int | None, ...]]] = {}
_smi_failed: list[float] = []


def detect_gpus() -> GpuReport:
    """The GPUs that torch uses in processes with this environment; asked once for each, in a child process."""
    if not _driver_present():
        return GpuReport()
    with _lock:
        at, found = _reports.get(_environment_key(), (0.0, None))
        if found is None or (found.failed and time.monotonic() - at > _RETRY_SECONDS):
            found = _query_torch()
            _reports[_environment_key()] = time.monotonic(), found
    return found


def free_bytes(gpus: Sequence[Gpu]) -> list[int]:
    """What of each card's memory is free now; all of it where nobody can tell.

    Args:
        gpus: Cards of :func:`find`, in its order.
    """
    by_uuid = _free_by_uuid()
    known: list[int | None] = [by_uuid.get(gpu.uuid.casefold()) if gpu.uuid else None for gpu in gpus]
    if None in known:  # a part of a card (MIG), memory shared with the processor, an AMD card
        measured = _measured_free_bytes()
        known = [free if free is not None else measured[place] if place < len(measured) else None
                 for place, free in enumerate(known)]
    return [gpu.memory_bytes if free is None else min(free, gpu.memory_bytes)
            for gpu, free in zip(gpus, known, strict=True)]


def _environment_key() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _VARIABLES)


def _driver_present() -> bool:
    """Whether a driver for GPUs is installed; without one torch need not be asked, which takes seconds.

    Loading CUDA's driver library starts nothing: torch's CUDA runtime looks for it by the same name.
    """
    if sys.platform == "darwin":
        return False
    if Path("/dev/kfd").exists() or Path("/dev/dxg").exists():  # AMD; Windows' subsystem for Linux
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _query_torch(*options: str) -> GpuReport:
    try:
        done = subprocess.run(python_command("-m", "assistant_builder.devices", *options), capture_output=True, text=True,
                              timeout=_TORCH_SECONDS, check=True, stdin=subprocess.DEVNULL, env=python_environment())
        record = json.loads(done.stdout.splitlines()[-1])
        return report_from_record(record)
    except subprocess.TimeoutExpired:
        return GpuReport(problem=f"PyTorch did not answer within {_TORCH_SECONDS} seconds", failed=True)
    except (subprocess.SubprocessError, OSError, ValueError, IndexError, KeyError, TypeError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return GpuReport(problem=f"PyTorch could not be asked: {said[-1] if said else error}", failed=True)


def report_from_record(record: dict[str, Any]) -> GpuReport:
    """What :func:`describe` returned in another process."""
    return GpuReport(tuple(Gpu(**gpu) for gpu in record["gpus"]), record["build"], record["problem"])


def nvidia_smi_names() -> list[str]:
    """Names of the cards that the driver of NVIDIA knows, whether or not torch can use them; empty without one."""
    return [line.strip() for line in _nvidia_smi("name") if line.strip()]


def _free_by_uuid() -> dict[str, int]:
    """Free bytes by UUID, as nvidia-smi tells them; empty where it does not."""
    found: dict[str, int] = {}
    for line in _nvidia_smi("uuid,memory.free"):
        uuid, _, mebibytes = (part.strip() for part in line.partition(","))
        if mebibytes.isdigit():  # else "[N/A]", "[Not Supported]"
            found[uuid.removeprefix("GPU-").casefold()] = int(mebibytes) * 2**20
    return found


def _nvidia_smi(query: str) -> list[str]:
    """Lines of values, one a card; empty where nvidia-smi is missing, fails or hangs."""
    if _smi_failed and time.monotonic() - _smi_failed[-1] < _RETRY_SECONDS:
        return []
    lines: list[str] | None = None
    with contextlib.suppress(OSError):  # there is none
        process = subprocess.Popen(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            output, _ = process.communicate(timeout=_SMI_SECONDS)
            lines = None if process.returncode else output.splitlines()
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # in a driver call it ends when that returns
                process.wait(1)
    if lines is None:
        _smi_failed[:] = [time.monotonic()]
    return lines or []


def _measured_free_bytes() -> tuple[int | None, ...]:
    with _lock:
        at, measured = _free_memory.get(_environment_key(), (0.0, None))
        if measured is None or time.monotonic() - at > _FREE_SECONDS:
            measured = tuple(gpu.free_bytes for gpu in _query_torch("--free").gpus)
            _free_memory[_environment_key()] = time.monotonic(), measured
    return measured


# what runs where torch may be imported


def describe_gpus(*, free: bool = False) -> dict[str, Any]:
    """The GPUs that torch sees in this process, as :func:`read` takes them; imports torch and starts CUDA.

    Args:
        free: Measure free memory too, for which every card gets a CUDA context.
    """
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    build = f"ROCm {torch.version.hip}" if torch.version.hip else build
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [asdict(_describe_gpu(index, free)) for index in range(seen)]
    problem = ""
    if not build:
        problem = "this build of PyTorch computes on the processor alone"
    elif not gpus and said:
        problem = str(said[0].message).splitlines()[0]
    return {"gpus": gpus, "build": build, "problem": problem}


def _describe_gpu(index: int, free: bool) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes = None
    if free:
        try:
            free_bytes = int(torch.cuda.mem_get_info(index)[0])
        except (RuntimeError, ValueError):  # another process has the card for itself
            free_bytes = None
    return Gpu(
        properties.name, str(getattr(properties, "uuid", "")), int(properties.total_memory),
        bool(torch.version.hip) or properties.major >= 8, kernel_problem(index), free_bytes,
    )


def torch_device() -> str:
    """``cuda`` where torch can compute on the GPU of this process, else ``cpu``; imports torch.

    A Mac computes on its processor: see README.md. ROCm calls its devices ``cuda`` too.
    """
    import torch

    return "cuda" if torch.cuda.is_available() and not kernel_problem() else "cpu"


def kernel_problem(index: int | None = None) -> str:
    """Why torch's build has no code for a card; empty where it has. Imports torch.

    CUDA counts such a card as available, and fails at the first operation.

    Args:
        index: Of the card, among those that torch sees; None: the current one.
    """
    import torch

    built_for = torch.cuda.get_arch_list()
    if torch.version.hip or not built_for:
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    for arch in built_for:
        kind, _, number = arch.partition("_")
        generation, step = divmod(int(number.rstrip("af")), 10)
        # machine code runs on later cards of its generation; intermediate code is compiled for any later card
        if (generation == major and step <= minor) or (kind == "compute" and generation < major):
            return ""
    return (f"this build of PyTorch has no code for its compute capability {major}.{minor} "
            f"(it has: {', '.join(built_for)})")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Extensions of the instruction set as Linux names them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(line.partition(":")[2].split())


def computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, as oneDNN asks before it uses it."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "bf16" in cpu_flags()
    return bool({"avx512_bf16", "amx_bf16", "avx512bw"} & cpu_flags())


def multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 on this processor with oneDNN, which macOS builds lack. Imports torch."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def main() -> None:
    """Print what torch sees as one line of JSON."""
    print(json.dumps(describe_gpus(free="--free" in sys.argv[1:])))


if __name__ == "__main__":
    main()
