"""``python -m benchmarks.download_size``: how much an installation downloads, by the sizes on the package index.

It needs the program ``uv``, which resolves ``pyproject.toml`` with the extra ``gguf`` for Linux on x86-64 without a
download. Printed are all packages, those of PyTorch with CUDA, and the rest.
"""

from __future__ import annotations

import subprocess
import tomllib
from typing import Any

from benchmarks.paths import ROOT

COMMAND = (
    "uv pip compile pyproject.toml --extra gguf -c constraints.txt --python-version 3.11 "
    "--python-platform x86_64-manylinux_2_28 --format pylock.toml --quiet"
)
_CUDA = ("nvidia-", "cuda-", "triton", "torch")


def sizes(lock: dict[str, Any]) -> dict[str, int]:
    """Package → bytes of the file that CPython 3.11 on Linux installs."""
    found = {}
    for package in lock["packages"]:
        files = [
            wheel
            for wheel in package.get("wheels", [])
            if wheel["url"].endswith("-any.whl")
            or ("linux" in wheel["url"] and "x86_64" in wheel["url"] and "musl" not in wheel["url"])
        ]
        own = [
            wheel
            for wheel in files
            if any(tag in wheel["url"] for tag in ("cp311-", "abi3", "py3-"))
        ]
        chosen = (own or files or [package["sdist"]])[0]
        found[package["name"]] = int(chosen["size"])
    return found


def main() -> None:
    """Print the sizes."""
    text = subprocess.run(
        COMMAND.split(), cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    found = sizes(tomllib.loads(text))
    cuda = sum(size for name, size in found.items() if name.startswith(_CUDA))
    total = sum(found.values())
    print(
        f"{len(found)} packages, {total / 1e9:.2f} GB, of which PyTorch with CUDA {cuda / 1e9:.2f} GB"
    )
    print(f"without PyTorch {(total - cuda) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
