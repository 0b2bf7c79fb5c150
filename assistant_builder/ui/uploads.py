"""A folder of this server's own for what it offers and what is uploaded; it goes with the process.

Gradio would keep uploads of all its servers on a machine, and of all their users, in one folder. Ours nobody else may
enter. What a server that was killed left behind goes when the next one starts.

Uploads: limited in size and number, each in a folder that nobody can guess, and nothing left of one that fails.

It stands where gradio has its own, which knows no limit but that of one file, names the folders by content, and keeps
what came of an upload that broke off.

Files of a study as downloads.

The page serves no study folder: what is offered is copied into a folder of the page's own, which goes with the process.
"""

from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import gradio as gr
from filelock import FileLock, Timeout
from gradio.route_utils import GradioMultiPartParser
from gradio.routes import file_upload_statuses
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from assistant_builder.atomic_io import write_bytes
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.web.request_limits import SIZE_VARIABLE, Limits, format_size
from assistant_builder.web.sessions import SESSION, UPLOAD_PREFIX, new_upload_name

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


PATH = "/gradio_api/upload"
_FRAME_BYTES = 64 * 1024
"""What a form may have around its files."""
_KEPT_SECONDS = 3600.0
"""Younger uploads are not removed to make room: somebody may still be looking at them."""


class Uploads:
    """Takes uploads in.

    Args:
        folder: Where they go.
        limits: How large and how many they may be.
        demo: The page; it removes old ones.
    """

    def __init__(self, folder: Path, limits: Limits, demo: gr.Blocks) -> None:
        self._folder = folder
        self._limits = limits
        self._demo = demo
        self._coming_bytes = 0
        self._coming_files = 0

    async def answer(self, request: Request) -> Response:
        """Take one request in; the answer is the list of the files' paths, as gradio's client expects it."""
        told = request.headers.get("content-length", "")
        most = self._limits.file_bytes + _FRAME_BYTES
        expected = int(told) if told.isdigit() else most
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return PlainTextResponse("An upload is a form with files", status_code=400)
        if expected > most:
            return self._too_large()
        if not await anyio.to_thread.run_sync(self._has_room, expected):
            return PlainTextResponse("Too many uploaded files are kept at the moment. Try again in an hour, or start "
                                     "Assistant Builder anew: it begins with none.", status_code=507)
        folder = self._folder / new_upload_name(request.scope.get(SESSION))
        self._coming_bytes += expected
        self._coming_files += 1
        kept = False
        try:
            folder.mkdir(parents=True)
            files = await self._receive(request, folder, most)
            kept = bool(files)
            self._demo.upload_file_set.update(files)
            return JSONResponse(files)
        except MultiPartException as error:
            return self._too_large() if "maximum allowed size" in error.message else PlainTextResponse(
                error.message, status_code=400)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return PlainTextResponse("The server's disk is full; nothing was kept of the upload", status_code=507)
        finally:
            self._coming_bytes -= expected
            self._coming_files -= 1
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    async def _receive(self, request: Request, folder: Path, most: int) -> list[str]:
        progress = request.query_params.get("upload_id", "")[:64] or None
        try:
            form = await GradioMultiPartParser(
                request.headers, _at_most(request, most), max_files=self._limits.files_at_once, max_fields=0,
                upload_dir=folder, max_file_size=self._limits.file_bytes, upload_id=progress,
                upload_progress=file_upload_statuses if progress else None,
            ).parse()
        except (OSError, MultiPartException, ClientDisconnect):
            raise
        except Exception as error:  # the parser lets those of the library under it through
            raise MultiPartException("The form cannot be read") from error
        finally:
            if progress:
                file_upload_statuses.set_done(progress)
        files = []
        for number, part in enumerate(form.getlist("files")):
            if isinstance(part, UploadFile):
                place = folder / str(number) / safe_name(part.filename or "")
                place.parent.mkdir()
                part.file.close()
                Path(part.file.name).rename(place)
                files.append(str(place))
        return files

    def _has_room(self, size: int) -> bool:
        """Whether an upload may be taken in; removes old ones where it may not otherwise."""
        found = sorted(
            ((path.stat().st_mtime, _size(path), path) for path in self._folder.glob(f"{UPLOAD_PREFIX}*")), reverse=True
        )
        while found and not self._fits(len(found), sum(entry[1] for entry in found), size):
            changed, _, path = found.pop()
            if time.time() - changed < _KEPT_SECONDS:
                return False
            shutil.rmtree(path, ignore_errors=True)
        return self._fits(len(found), sum(entry[1] for entry in found), size)

    def _fits(self, files: int, kept: int, size: int) -> bool:
        limits = self._limits
        return files + self._coming_files < limits.stored_files and kept + self._coming_bytes + size <= limits.stored_bytes

    def _too_large(self) -> Response:
        return PlainTextResponse(
            f"The file is larger than {format_size(self._limits.file_bytes)}, which is the most that is taken here. "
            f"Whoever runs the server can change it ({SIZE_VARIABLE}), or start from the file: assistant-builder run "
            "FILE.", status_code=413,
        )


def safe_name(name: str) -> str:
    """A file name that is one on every system, its ending kept, from what a browser says it is."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*')
    stem, dot, ending = kept.strip().rstrip(". ").rpartition(".")
    stem, ending = (stem, ending) if dot else (ending, "")
    short = stem.encode("utf-8", errors="ignore")[:150].decode("utf-8", errors="ignore")
    return f"{short or 'file'}{dot}{ending.encode('utf-8', errors='ignore')[:20].decode('utf-8', errors='ignore')}"


async def _at_most(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body, up to a size: one that is sent in pieces says no length beforehand."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise MultiPartException("The form exceeded the maximum allowed size.")
        yield chunk


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
