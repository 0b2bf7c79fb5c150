"""Create a study from documents, or read them into an existing one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_text
from assistant_builder.config import StudyConfig
from assistant_builder.data import load_pairs
from assistant_builder.documents.reading import KINDS, is_document
from assistant_builder.documents.sources import Progress, files_of, read_files, silent
from assistant_builder.documents.store import Documents, Reading, Update
from assistant_builder.errors import AssistantBuilderError, ConfigError, DataError
from assistant_builder.i18n import m
from assistant_builder.runner.open_study import read_source
from assistant_builder.study import Study, studies_folder

_GENERIC_NAMES = frozenset("documents docs files pages website site".split())
"""Names of folders that say nothing; the name of the folder above is used instead."""


def names_documents(sources: Sequence[str]) -> bool:
    """Whether what the user names are documents: a folder, or files with the ending of a document.

    A text file may be one of pairs; it is a document only if no pairs can be read from it.
    """
    paths = [Path(source).expanduser() for source in sources]
    if len(paths) != 1:  # without any, the error says what may be named
        return True
    (path,) = paths
    if path.is_dir():
        # a study's own name is not taken for a folder of the working directory
        return "/" in sources[0] or not (studies_folder() / sources[0]).is_dir()
    if not path.is_file() or not is_document(path):
        return False
    if KINDS[path.suffix.lower()] != "text":
        return True
    try:
        return not load_pairs(path).pairs
    except DataError:
        return True


def open_documents(
    sources: Sequence[str],
    *,
    site: str | None = None,
    pages: int | None = None,
    name: str | None = None,
    changes: Mapping[str, Any] | None = None,
    before: Callable[[StudyConfig], None] = lambda config: None,
    progress: Progress = silent,
) -> tuple[Study, Update]:
    """Read a folder, files or a website into the study of that name, which is created if it does not exist.

    Args:
        sources: A folder, or documents.
        site: Address of a website.
        pages: Pages of the website that are read at most.
        name: Name of the study; by default that of the folder, the first file or the host.
        changes: Settings by dotted key.
        before: Called with the settings before anything is read.
        progress: Called with each document.

    Raises:
        ConfigError: There are no documents, or a package to read them is missing.
        DataError: None of the documents could be read.
    """
    config = _config(sources, site).with_changes(dict(changes or {}))
    if name is not None:
        config = config.named(name)
    before(config)
    known = set[str]()
    if (studies_folder() / config.name).exists():
        known = {record["name"] for record in Documents(Study.open(config.name)).records}
    readings, problems, root, complete = _read(sources, site, pages, progress, known)
    if not (studies_folder() / config.name).exists():
        found: list[Update] = []

        def fill(folder: Path) -> None:
            (folder / "data").mkdir()
            documents = Documents(Study(folder))
            found.append(documents.update(readings, root, problems, complete=complete))
            write_text(folder / "study.yaml", config.to_yaml())

        return Study.create_folder(config.name, fill), found[0]
    study = Study.open(config.name)
    if changes:
        study.write_config(study.config.with_changes(dict(changes)))
    return study, Documents(study).update(readings, root, problems, complete=complete)


def _config(sources: Sequence[str], site: str | None) -> StudyConfig:
    if site is not None:
        from assistant_builder.documents.site import normal_address

        host = normal_address(site).split("/")[2].partition(":")[0].removeprefix("www.")
        return read_source(Path(f"{host.replace('.', '-')}.html"))[0]
    if not sources:
        raise ConfigError(
            m("there is nothing to read"), remedy=m("Name a folder or files, or use --site")
        )
    path = Path(sources[0]).expanduser().resolve()
    if path.is_dir() and path.name.lower() in _GENERIC_NAMES and path.parent.name:
        path = path.parent
    named = path.is_dir() and path.name  # not the root folder
    return read_source(path.with_suffix("") if named else path)[0]


def _read(
    sources: Sequence[str],
    site: str | None,
    pages: int | None,
    progress: Progress,
    known: Collection[str],
) -> tuple[list[Reading], dict[str, AssistantBuilderError], str, bool]:
    if site is None:
        files, root, complete = files_of([Path(source).expanduser() for source in sources])
        return (*read_files(files, progress), root, complete)
    if sources:
        raise ConfigError(
            m("--site is read alone"),
            where="--site",
            remedy=m("Read the files with another command"),
        )
    from assistant_builder.documents.site import MAX_PAGES, normal_address, read_site

    read = read_site(site, progress, most=pages or MAX_PAGES)
    return read.readings, read.problems, normal_address(site), read.covers(known)
