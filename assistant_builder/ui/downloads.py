"""Files of a study as downloads.

The page serves no study folder: what is offered is copied into a folder of the page's own, which goes with the process.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from assistant_builder.ui.snapshots import stamp


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="assistant-builder-page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def offer(path: Path, name: str) -> str | None:
    """A copy of a file for download, None where there is no such file.

    Args:
        path: The file.
        name: What the download is called.
    """
    if not path.is_file():
        return None
    copy = _folder() / stamp([path]) / name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    return str(copy)
