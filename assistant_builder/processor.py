"""What the processor of this machine can do, read without torch."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

import psutil


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
