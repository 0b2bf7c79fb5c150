"""Fixtures of the fault tests: a small disk, read-only folders, a process with limits, and bit flips."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import python as run_python


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes; skips the test if none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[list[Path]]:
    """List of folders that :func:`lock` made read-only, which become writable at the end."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def lock(folder: Path, locked: list[Path]) -> None:
    """Make a folder read-only, even for root."""
    bound = subprocess.run(
        ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
    )
    if bound.returncode:
        pytest.skip("no folder can be made read-only here")
    locked.append(folder)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Write until the disk is full to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def python(code: str, *, limits: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in its own process after setting resource limits."""
    program = f"import resource\n{limits}\n{code}"
    return run_python("-c", program, env={"OMP_NUM_THREADS": "1"}, ends=None)


def flip(path: Path, at: int | None = None) -> None:
    """Flip one bit of a file (by default in its middle) and keep its size and modification time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
