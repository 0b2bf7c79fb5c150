"""Reading what the user names into the documents of a study: a folder or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from assistant_builder.documents.limits import too_much_text
from assistant_builder.documents.reading import (
    KINDS,
    document_files,
    is_document,
    named,
    read_document,
    require_packages,
)
from assistant_builder.documents.store import Reading
from assistant_builder.errors import AssistantBuilderError, ConfigError, DataError
from assistant_builder.i18n import m

Progress = Callable[[int, int, str], None]
"""Called with the documents that were read, their total, and the name of the next."""


def silent(done: int, total: int, name: str) -> None:
    """Report nothing."""


def files_of(paths: Sequence[Path]) -> tuple[dict[str, Path], str, bool]:
    """The documents below a folder, or single ones, by name; where they come from; and whether these are all of it.

    Raises:
        ConfigError: A folder has no documents, a file is none, or two documents have one name.
    """
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0].resolve()
        return named(document_files(folder), folder), str(folder), True
    found = [each for path in paths for each in (document_files(path) if path.is_dir() else [path])]
    for path in found:
        if not is_document(path):
            raise ConfigError(
                m("{name} is no document", name=path.name),
                remedy=m("Use {kinds} files", kinds=", ".join(sorted(KINDS))),
            )
    return named(found), "", False


def read_files(
    files: Mapping[str, Path], progress: Progress = silent
) -> tuple[list[Reading], dict[str, AssistantBuilderError]]:
    """Read documents by name.

    Returns:
        Those that could be read, and name → error of the others.

    Raises:
        ConfigError: The extra ``documents`` is not installed.
        DataError: None of them could be read; the error of the first. Or they have too much text together.
    """
    require_packages()
    readings: list[Reading] = []
    problems: dict[str, AssistantBuilderError] = {}
    text = 0
    for number, (name, path) in enumerate(files.items()):
        progress(number, len(files), name)
        try:
            reading = Reading.of(path, read_document(path, name))
        except DataError as error:
            problems[name] = error
            continue
        text += reading.document.size
        if too_much := too_much_text(text, name):
            raise too_much
        readings.append(reading)
    if not readings and problems:
        raise next(iter(problems.values()))
    return readings, problems
