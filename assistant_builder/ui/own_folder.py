"""A folder of this server's own for what it offers and what is uploaded; it goes with the process.

Gradio would keep uploads of all its servers on a machine, and of all their users, in one folder. Ours nobody else may
enter. What a server that was killed left behind goes when the next one starts.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "assistant-builder-page-"
_LOCK = ".in-use"
_NEW_SECONDS = 60.0
_held: list[FileLock] = []


@functools.cache
def own_folder() -> Path:
    """The folder; made when it is first asked for."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # readable by its owner alone
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    _held.append(lock)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def uploads_folder() -> Path:
    """Where uploads and gradio's copies of offered files go; gradio is told so by its environment variable.

    Call it before components are built: they note the folder then.
    """
    folder = own_folder().resolve() / "files"
    folder.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def sweep() -> int:
    """Remove the folders of servers that are gone; returns how many there were."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            ours = not folder.is_symlink() and folder.stat().st_uid == os.getuid() if os.name == "posix" else True
            if not ours or time.time() - folder.stat().st_mtime < _NEW_SECONDS:
                continue
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        except (OSError, Timeout):  # in use, or somebody else removes it
            continue
    return removed
