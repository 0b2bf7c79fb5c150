"""Provenance of a study: versions, revision, hardware, and hashes of the inputs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from assistant_builder import __version__
from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.devices import device_name
from assistant_builder.models.base_model import base_ref, fetch_base
from assistant_builder.models.checkpoint_dir import base_model_hash
from assistant_builder.study import Study
from assistant_builder.study.contents import Split

PACKAGES = """
    torch transformers peft bitsandbytes trl accelerate datasets lm-eval sentence-transformers tokenizers safetensors
    numpy scipy pandas gradio
    """.split()


def collect_provenance(study: Study) -> dict[str, Any]:
    """Everything that is needed to reproduce the figures of a study."""
    model = study.config.model
    ref, folder = base_ref(model), fetch_base(model)
    source = study.source
    origin = folder / "origin.json"
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "assistant_builder": __version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "hardware": _hardware(),
        "data": {
            "file": Path(study.config.data.source).name,
            "sha256": file_hash(source) if source is not None else None,
            "splits": read_json(study.folder / "data" / "split.json", Split)["hashes"],
        },
        "base_model": {
            "name": ref.name,
            "hub_id": ref.hub_id,
            "revision": model.revision,
            "sha256": base_model_hash(folder),
            "origin": read_json(origin) if origin.is_file() else None,
        },
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Git revision of the checkout, with ``+changes`` if the working tree differs; None without a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return f"{revision}+changes" if _git(root, "status", "--porcelain") else revision
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return result.stdout.strip()


def _hardware() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # loaded by the step that calls this
    gpu = None
    if torch is not None and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "count": torch.cuda.device_count(),
        }
    memory = psutil.virtual_memory().total
    return {"cpu": device_name("cpu"), "cores": os.cpu_count(), "memory_bytes": memory, "gpu": gpu}
