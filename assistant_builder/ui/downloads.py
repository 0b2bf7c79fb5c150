"""Files of a study as downloads.

The page serves no study folder: what is offered is copied into a folder of the page's own, which goes with the process.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from assistant_builder.files import write_bytes
from assistant_builder.ui.own_folder import own_folder
from assistant_builder.ui.snapshots import stamp


def offer(path: Path, name: str) -> str | None:
    """A copy of a file for download, None where there is no such file.

    Args:
        path: The file.
        name: What the download is called.
    """
    if not path.is_file():
        return None
    copy = own_folder() / stamp([path]) / name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    return str(copy)


def new_folder() -> Path:
    """A folder of the page's own for a file that is made here, such as edited rows; it goes with the process."""
    return Path(tempfile.mkdtemp(dir=own_folder()))


def offer_bytes(content: bytes, name: str) -> str:
    """Content made for download.

    Args:
        content: The bytes of the file.
        name: What the download is called.
    """
    copy = own_folder() / hashlib.sha256(content).hexdigest()[:16] / name
    if not copy.exists():
        write_bytes(copy, content)
    return str(copy)


def offer_text(text: str, name: str) -> str:
    """A text as a file for download.

    Args:
        text: Its content.
        name: What the download is called.
    """
    return offer_bytes(text.encode("utf-8", errors="backslashreplace"), name)
