"""GPUs and CPU features of this machine. The GPUs are queried in a child process that imports torch."""

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

from assistant_builder.child_process import python_command, python_environment

_VARIABLES = """
    CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL
    """.split()
"""Environment variables that determine which GPUs torch sees, and in which order."""
_TORCH_SECONDS = 60
_SMI_SECONDS = 5
_RETRY_SECONDS = 300
"""Time until a failed query is repeated: the page queries often, and a driver that hangs usually keeps hanging."""
_FREE_SECONDS = 60
"""How long free memory measured by a child process is cached; the measurement takes seconds."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as reported by torch."""

    name: str
    uuid: str  # UUID without the prefix ``GPU-`` or ``MIG-``; empty if torch does not report it
    memory_bytes: int
    bfloat16: bool  # whether the hardware supports bfloat16
    problem: str = ""  # why torch cannot compute on it; empty if it can
    free_bytes: int | None = None  # free memory; None if it was not measured


@dataclass(frozen=True)
class GpuReport:
    """Result of a GPU query."""

    gpus: tuple[Gpu, ...] = ()  # visible GPUs in torch's order
    # platform of the torch build, ``CUDA 13.0`` or ``ROCm 7.2``; empty for a CPU build
    build: str = ""
    problem: str = ""  # why torch sees no GPU although there may be one; empty without a problem
    failed: bool = False  # whether the query failed

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """GPUs that training can use: all before the first one on which torch cannot compute."""
        count = next((place for place, gpu in enumerate(self.gpus) if gpu.problem), len(self.gpus))
        return self.gpus[:count]


_lock = threading.Lock()
_reports: dict[tuple[str | None, ...], tuple[float, GpuReport]] = {}
_free_memory: dict[tuple[str | None, ...], tuple[float, tuple[int | None, ...]]] = {}
_smi_failed: list[float] = []


def detect_gpus() -> GpuReport:
    """The GPUs that torch sees in processes with this environment; cached per environment."""
    if not driver_present():
        return GpuReport()
    with _lock:
        at, found = _reports.get(_environment_key(), (0.0, None))
        if found is None or (found.failed and time.monotonic() - at > _RETRY_SECONDS):
            found = _query_torch()
            _reports[_environment_key()] = time.monotonic(), found
    return found


def free_bytes(gpus: Sequence[Gpu]) -> list[int]:
    """Free memory of each GPU of :func:`detect_gpus`; its total memory if the free memory is unknown."""
    by_uuid: dict[str, int] = {}
    for line in _nvidia_smi("uuid,memory.free"):
        uuid, _, mebibytes = (part.strip() for part in line.partition(","))
        if mebibytes.isdigit():  # else "[N/A]", "[Not Supported]"
            by_uuid[uuid.removeprefix("GPU-").casefold()] = int(mebibytes) * 2**20
    known = [by_uuid.get(gpu.uuid.casefold()) if gpu.uuid else None for gpu in gpus]
    if None in known:  # a MIG partition, memory shared with the CPU, or an AMD GPU
        measured = _measured_free_bytes()
        known = [
            free if free is not None else measured[place] if place < len(measured) else None
            for place, free in enumerate(known)
        ]
    return [
        gpu.memory_bytes if free is None else min(free, gpu.memory_bytes)
        for gpu, free in zip(gpus, known, strict=True)
    ]


def _environment_key() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _VARIABLES)


def driver_present() -> bool:
    """Whether a GPU driver is installed; without one, the slow query of torch is skipped.

    Loading CUDA's driver library does not initialize CUDA; torch's CUDA runtime loads it by the same name.
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
        done = subprocess.run(
            python_command("-m", "assistant_builder.devices", *options),
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
            env=python_environment(),
        )
        return report_from_record(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return GpuReport(
            problem=f"PyTorch did not respond within {_TORCH_SECONDS} seconds", failed=True
        )
    except (subprocess.SubprocessError, OSError, ValueError, LookupError, TypeError) as error:
        return GpuReport(problem=f"the query of PyTorch failed: {last_words(error)}", failed=True)


def last_words(error: Exception) -> str:
    """The last line that a failed process wrote, or of the error."""
    lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    return lines[-1] if lines else str(error)


def report_from_record(record: dict[str, Any]) -> GpuReport:
    """Parse the result of :func:`describe_gpus` from another process."""
    return GpuReport(
        tuple(Gpu(**gpu) for gpu in record["gpus"]), record["build"], record["problem"]
    )


def nvidia_smi_names() -> list[str]:
    """Names of the GPUs that nvidia-smi reports, whether or not torch can use them."""
    return [line.strip() for line in _nvidia_smi("name") if line.strip()]


def _nvidia_smi(query: str) -> list[str]:
    """Output lines of nvidia-smi, one per GPU; empty if it is missing, fails or hangs."""
    if _smi_failed and time.monotonic() - _smi_failed[-1] < _RETRY_SECONDS:
        return []
    lines: list[str] | None = None
    with contextlib.suppress(OSError):  # not installed
        process = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=_SMI_SECONDS)
            lines = None if process.returncode else output.splitlines()
        except subprocess.TimeoutExpired:
            process.kill()
            # a process in a driver call ends only when it returns
            with contextlib.suppress(subprocess.TimeoutExpired):
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


# functions that import torch


def describe_gpus(*, free: bool = False) -> dict[str, Any]:
    """The GPUs that torch sees in this process, as a record for :func:`report_from_record`; initializes CUDA.

    ``free`` measures free memory too, which creates a CUDA context on every GPU.
    """
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [asdict(_describe_gpu(index, free)) for index in range(count)]
    problem = ""
    if not build:
        problem = "this build of PyTorch supports only the CPU"
    elif not gpus and caught:
        problem = str(caught[0].message).splitlines()[0]
    return {"gpus": gpus, "build": build, "problem": problem}


def _describe_gpu(index: int, free: bool) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes = None
    if free:
        # another process uses the GPU exclusively
        with contextlib.suppress(RuntimeError, ValueError):
            free_bytes = int(torch.cuda.mem_get_info(index)[0])
    return Gpu(
        properties.name,
        str(getattr(properties, "uuid", "")),
        int(properties.total_memory),
        bool(torch.version.hip) or properties.major >= 8,
        kernel_problem(index),
        free_bytes,
    )


def torch_device() -> str:
    """``cuda`` if torch can compute on the GPU of this process, else ``cpu``; imports torch.

    A Mac uses its CPU (see docs/gpu.md). ROCm devices are called ``cuda`` too.
    """
    import torch

    return "cuda" if torch.cuda.is_available() and not kernel_problem() else "cpu"


def device_name(device: str) -> str:
    """Name of the card of this process (``cuda``) or of the processor (``cpu``); imports torch for a card."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kernel_problem(index: int | None = None) -> str:
    """Why this torch build has no kernels for a GPU (None: the current one); empty if it has. Imports torch.

    CUDA reports such a GPU as available and fails at the first operation.
    """
    import torch

    built_for = torch.cuda.get_arch_list()
    if torch.version.hip or not built_for:
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    for arch in built_for:
        kind, _, number = arch.partition("_")
        generation, step = divmod(int(number.rstrip("af")), 10)
        # machine code (sm) runs on later GPUs of its generation; PTX (compute) is compiled for any later GPU
        if (generation == major and step <= minor) or (kind == "compute" and generation < major):
            return ""
    return (
        f"this build of PyTorch has no kernels for compute capability {major}.{minor} "
        f"(it supports {', '.join(built_for)})"
    )


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """CPU features as listed in ``/proc/cpuinfo``; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(line.partition(":")[2].split())


def computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16, by the condition of oneDNN."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "bf16" in cpu_flags()
    return bool({"avx512_bf16", "amx_bf16", "avx512bw"} & cpu_flags())


def multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 on this processor with oneDNN, which macOS builds lack. Imports torch."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def fastest_dtype(device: str) -> str:
    """bfloat16 if the hardware supports it, else float16 on a GPU and float32 on a CPU. Imports torch."""
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if multiplies_bfloat16() else "float32"


if __name__ == "__main__":
    print(json.dumps(describe_gpus(free="--free" in sys.argv[1:])))
