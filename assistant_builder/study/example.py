"""The finished example: a study that is shipped as an archive, and opened without training anything.

``benchmarks/make_example.py`` runs the study and packs it.
"""

from __future__ import annotations

import zipfile
from importlib import resources
from pathlib import Path

from filelock import FileLock

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import name_and_title
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.study.admin import rename_tasks
from assistant_builder.study.containment import is_plain
from assistant_builder.study.layout import studies_folder
from assistant_builder.study.study import Study

NAME = "example"
"""Name of the study in the archive."""
_ORIGIN = "provenance.json"
"""File with the time at which a study was made: two studies with the same one are copies."""


def datasets_folder() -> Path:
    """The folder of the shipped datasets: package data of a wheel, or ``datasets_cards/`` of a clone."""
    package = Path(str(resources.files("assistant_builder")))
    folder = package / "datasets_cards"
    return folder if folder.is_dir() else package.with_name("datasets_cards")


def example_folder() -> Path:
    """The folder with the data, the settings (``study.yaml``) and the archive (``study.zip``) of the example."""
    return datasets_folder() / "larkmoor-campsite"


def example_archive() -> Path:
    """The archive of the finished example."""
    return example_folder() / "study.zip"


def open_example(name: str | None = None) -> Study:
    """Open the finished example, which is unpacked if no study is a copy of it; training and downloads are not needed.

    Args:
        name: Name of the study. None: a copy of any name is opened; a new one is called ``example``, or ``example-2``
            if that is the name of another study.

    Raises:
        StudyError: The archive is missing or damaged, another study has the name, or the folder cannot be written.
    """
    studies_folder().mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(example_archive()) as archive,
            FileLock(studies_folder() / ".example.lock"),
        ):
            made = archive.read(_ORIGIN)
            if name is None:
                found = next((study for study in Study.all() if _made(study.folder) == made), None)
                return found or _unpack(archive, _free_name())
            if _made(studies_folder() / name_and_title(name)[0]) == made:
                return Study.open(name)
            return _unpack(archive, name)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile) as error:
        raise StudyError(
            m("the finished example is missing or damaged"),
            where=str(example_archive()),
            remedy=m("Install the package again"),
        ) from error


def _unpack(archive: zipfile.ZipFile, name: str) -> Study:
    valid = name_and_title(name)[0]

    def fill(folder: Path) -> None:
        archive.extractall(folder)
        copy = Study(folder)
        if valid != NAME:
            rename_tasks(folder, NAME, valid)
            copy.write_config(copy.config.named(name))
            # HTML and Markdown show the old name until they are rendered again
            report = folder / "report.json"
            write_json(report, {**read_json(report), "study": valid})

    return Study.create_folder(valid, fill)


def _made(folder: Path) -> bytes:
    try:
        return (folder / _ORIGIN).read_bytes() if is_plain(folder) else b""
    except OSError:
        return b""


def _free_name() -> str:
    names = (NAME, *(f"{NAME}-{number}" for number in range(2, len(Study.all()) + 3)))
    return next(name for name in names if not (studies_folder() / name).exists())
