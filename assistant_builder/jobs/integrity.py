"""Whether what a finished step made is as it left it: a damaged adapter must not be scored as if it were whole."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import StudyError
from assistant_builder.steps import StepRecord
from assistant_builder.study import Study


def damaged_outputs(study: Study, record: StepRecord) -> list[str]:
    """Files of a finished step that are missing, or not those that it made, by their paths below the study's folder."""
    return [name for name, digest in record.outputs.items() if _hash(study.folder / name) != digest]


def damage(record: StepRecord, names: list[str], study: Study) -> StudyError:
    """The refusal of a study whose finished step has lost something."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return StudyError(
        f"{names[0]}{more} is not as step {record.step!r} left it: damaged, changed or missing",
        where=f"study {study.name}",
        remedy="Put the file back from a copy, or pass --redo to run this step and all after it again",
    )


def forget_unreadable(study: Study) -> None:
    """Forget the steps whose status files say nothing: each is run again from the beginning."""
    for step in reversed(study.steps):
        try:
            study.step(step)
        except StudyError:
            study.forget_step(step)


def _hash(path: Path) -> str | None:
    try:
        status = path.stat()
        return _hash_of(path, (status.st_size, status.st_ctime_ns, status.st_ino))
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _hash_of(path: Path, stamp: tuple[int, int, int]) -> str:
    """SHA-256 of a file; ``stamp`` changes whenever the file does, so that an unchanged one is read once.

    It holds the time of the last change of any kind, which, unlike that of the last writing, nobody can set.
    """
    return file_hash(path)
