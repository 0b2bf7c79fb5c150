"""What a study from elsewhere may consist of: plain files and folders below its own folder, and no links.

A link would make the program read, overwrite or delete files of the user that are not in the study. The program itself
makes no links in a study.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from assistant_builder.errors import StudyError
from assistant_builder.i18n import N_, m

MAX_STATE_BYTES = {
    **dict.fromkeys((".json", ".yaml", ".md", ".html"), 2**27),
    ".jsonl": 2**30,
}
"""Largest files that are read as a whole. The largest JSON file of a tokenizer has 35 MB."""
_MAX_ENTRIES, _MAX_FOLDERS, _MAX_KNOWN = 200_000, 5_000, 16_384
_known: dict[str, tuple[tuple[int, ...], tuple[int, tuple[str, ...]]]] = {}
"""Folder → device, inode and times at its last check, and what was found."""


def is_plain_name(name: str) -> bool:
    """Whether a name is a relative path of printable parts, none of them empty, ``.`` or ``..``."""
    drives = "\\:" if os.name == "nt" else "\\"
    return (
        name.isprintable()
        and not set(name) & set(drives)
        and not {"", ".", ".."}.intersection(name.split("/"))
    )


def is_too_large(name: str, size: int) -> bool:
    """Whether a file is larger than :data:`MAX_STATE_BYTES`."""
    return size > MAX_STATE_BYTES.get(os.path.splitext(name)[1], size)


def path_inside(folder: Path, name: str) -> Path:
    """The path of a file below ``folder``, by a name that comes from elsewhere; it need not exist.

    Raises:
        StudyError: The name leads out of the folder, or a part of it is a link.
    """
    path = folder
    if not is_plain_name(name):
        raise StudyError(
            m("{name!r} is not a path that a {study} can contain", name=name[:200]),
            where=str(folder),
            remedy=m("Rename or remove it; if it comes from somebody else, ask them to correct it"),
        )
    for part in name.split("/"):
        path = path / part
        if _is_link(path):
            raise _link_error(path)
    return path


def check_folder(folder: Path) -> None:
    """Check that a study consists of plain files and folders; folders in it that have not changed are not read again.

    Raises:
        StudyError: It has a link, a special file, an unreadable folder, a state file that is too large, or too many
            files or folders.
    """
    pending, count, folders = [str(folder)], 0, 0
    while pending:
        inside = pending.pop()
        try:
            status = os.stat(inside)
        except (
            FileNotFoundError
        ):  # removed since it was listed; of the study itself, whoever reads it says so
            continue
        except OSError as error:
            raise _unreadable(inside, error) from error
        entries, below = _checked_once(inside, status)
        count, folders, pending = count + entries, folders + 1, [*pending, *below]
        for found, most, what in (
            (count, _MAX_ENTRIES, N_("the study has more than {number:,} files")),
            (folders, _MAX_FOLDERS, N_("the study has more than {number:,} folders")),
        ):
            if found > most:
                raise StudyError(
                    m(what, number=most),
                    where=str(folder),
                    remedy=m("Delete what does not belong to it"),
                )


def is_plain(folder: Path) -> bool:
    """Whether a study consists of plain files and folders, see :func:`check_folder`."""
    try:
        check_folder(folder)
    except StudyError:
        return False
    return True


def _checked_once(folder: str, status: os.stat_result) -> tuple[int, tuple[str, ...]]:
    """:func:`_check`, once for each state of a folder; one state is kept, because every question changes a log."""
    stamp = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    if (known := _known.get(folder)) is not None and known[0] == stamp:
        return known[1]
    found = _check(folder)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[folder] = stamp, found
    return found


def _check(folder: str) -> tuple[int, tuple[str, ...]]:
    """Check the entries of one folder; returns their number and the folders among them."""
    below: list[str] = []
    count = 0
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries, start=1):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    _check_entry(entry, below)
                if count > _MAX_ENTRIES:
                    break
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unreadable(folder, error) from error
    return count, tuple(below)


def _check_entry(entry: os.DirEntry[str], pending: list[str]) -> None:
    if entry.is_symlink() or (os.name == "nt" and _is_link(Path(entry.path))):
        raise _link_error(Path(entry.path))
    if entry.is_dir(follow_symlinks=False):
        pending.append(entry.path)
    elif not entry.is_file(follow_symlinks=False):
        raise StudyError(
            m("it is no plain file, which a {study} cannot contain"),
            where=entry.path,
            remedy=m("Delete it, or ask whoever made the {study} for its plain files"),
        )
    elif os.path.splitext(entry.name)[1] in MAX_STATE_BYTES:
        size = entry.stat(follow_symlinks=False).st_size
        if is_too_large(entry.name, size):
            raise StudyError(
                m(
                    "the file has {size:.0f} MB, more than any that a {study} needs",
                    size=size / 1e6,
                ),
                where=entry.path,
                remedy=m("Delete it, or ask whoever made the {study} for the right file"),
            )


def _is_link(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    junction = getattr(status, "st_reparse_tag", 0) == getattr(
        stat, "IO_REPARSE_TAG_MOUNT_POINT", -1
    )
    return stat.S_ISLNK(status.st_mode) or junction


def _unreadable(folder: str, error: OSError) -> StudyError:
    return StudyError(
        m("the folder cannot be read: {strerror}", strerror=error.strerror),
        where=folder,
        remedy=m("Make it readable, or delete it"),
    )


def _link_error(path: Path) -> StudyError:
    return StudyError(
        m("it is a link, which a {study} cannot contain"),
        where=str(path),
        remedy=m("Replace it by the file or folder itself, or delete the link"),
    )
