"""Temporary files of the server: uploads, and copies of study files for download.

Each server has a temporary folder that only its user can read and that is deleted at exit; the next server deletes the
folder of one that was killed. Gradio would put the uploads of all servers and users into one folder. The upload route
replaces gradio's, which limits only the size of a single file, names folders by content and keeps interrupted uploads.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import functools
import hashlib
import math
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
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from assistant_builder.atomic_io import write_bytes
from assistant_builder.i18n import t
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.ui.gradio_internals import GradioMultiPartParser, file_upload_statuses
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.web.sessions import SESSION, UPLOAD_PREFIX, new_upload_name
from assistant_builder.web.upload_limits import SIZE_VARIABLE, Limits

PREFIX = "assistant-builder-page-"
_LOCK = ".in-use"
_NEW_SECONDS = 60.0
_locks: list[FileLock] = []


@functools.cache
def server_folder() -> Path:
    """The temporary folder of this server; created on first use."""
    remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # readable only by its owner
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    _locks.append(lock)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def uploads_folder() -> Path:
    """The folder of uploads and of gradio's copies of files for download.

    It is set in gradio's environment variable. Components read the variable when they are built, so call this first.
    """
    folder = server_folder().resolve() / "files"
    folder.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def remove_stale_folders() -> int:
    """Remove the folders of servers that no longer run; returns their number."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            ours = (
                not folder.is_symlink() and folder.stat().st_uid == os.getuid()
                if os.name == "posix"
                else True
            )
            if not ours or time.time() - folder.stat().st_mtime < _NEW_SECONDS:
                continue
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        except (OSError, Timeout):  # in use, or removed by another process
            continue
    return removed


PATH = "/gradio_api/upload"
_FRAME_BYTES = 64 * 1024
"""Allowance for the parts of a form other than its files."""
_KEPT_SECONDS = 3600.0
"""Uploads younger than this are never removed to free space: a user may still need them."""


class Uploads:
    """The upload route: limits size and number, stores each upload in an unguessable folder, and removes failed ones.

    The page ``demo`` deletes old uploads.
    """

    def __init__(self, folder: Path, limits: Limits, demo: gr.Blocks) -> None:
        self._folder, self._limits, self._demo = folder, limits, demo
        self._incoming_bytes = self._incoming_files = 0
        self._admission = (
            asyncio.Lock()
        )  # an upload is counted before the space for the next one is checked

    async def answer(self, request: Request) -> Response:
        """Handle one upload; the response is the list of paths that gradio's client expects."""
        length = request.headers.get("content-length", "")
        most = self._limits.file_bytes + _FRAME_BYTES
        expected = int(length) if length.isdigit() else most
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return PlainTextResponse("An upload is a form with files", status_code=400)
        if expected > most:
            return self._too_large()
        async with self._admission:
            if not await anyio.to_thread.run_sync(self._has_space, expected):
                return PlainTextResponse(
                    t(
                        "The limit of stored uploads is reached. Try again in an hour, or restart "
                        "Assistant Builder, which deletes them."
                    ),
                    status_code=507,
                )
            self._incoming_bytes += expected
            self._incoming_files += 1
        folder = self._folder / new_upload_name(request.scope.get(SESSION))
        kept = False
        try:
            folder.mkdir(parents=True)
            files = await self._receive(request, folder, most)
            kept = bool(files)
            self._demo.upload_file_set.update(files)
            return JSONResponse(files)
        except MultiPartException as error:
            large = "maximum allowed size" in error.message
            return self._too_large() if large else PlainTextResponse(error.message, status_code=400)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return PlainTextResponse(
                t("The disk of the server is full; the upload was discarded"), status_code=507
            )
        finally:
            self._incoming_bytes -= expected
            self._incoming_files -= 1
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    async def _receive(self, request: Request, folder: Path, most: int) -> list[str]:
        progress = request.query_params.get("upload_id", "")[:64] or None
        try:
            form = await GradioMultiPartParser(
                request.headers,
                _limited_stream(request, most),
                max_files=self._limits.files_at_once,
                max_fields=0,
                upload_dir=folder,
                max_file_size=self._limits.file_bytes,
                upload_id=progress,
                upload_progress=file_upload_statuses if progress else None,
            ).parse()
        except (OSError, MultiPartException, ClientDisconnect):
            raise
        except Exception as error:  # the parser passes on exceptions of its library
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

    def _has_space(self, size: int) -> bool:
        """Whether an upload fits the limits; removes old uploads if it does not."""
        paths = self._folder.glob(f"{UPLOAD_PREFIX}*")
        # those of the future were uploaded while the clock was ahead
        found = sorted(
            ((_age(path), _size(path), path) for path in paths), key=lambda each: each[0]
        )
        while found and not self._fits(len(found), sum(entry[1] for entry in found), size):
            age, _, path = found.pop()
            if age < _KEPT_SECONDS:
                return False
            shutil.rmtree(path, ignore_errors=True)
        return self._fits(len(found), sum(entry[1] for entry in found), size)

    def _fits(self, files: int, kept: int, size: int) -> bool:
        fits = kept + self._incoming_bytes + size <= self._limits.stored_bytes
        return fits and files + self._incoming_files < self._limits.stored_files

    def _too_large(self) -> Response:
        return PlainTextResponse(
            t(
                "The file is larger than {format_size}, the limit of this server. Its administrator can raise it "
                "({size_variable}) or start from the file: assistant-builder run FILE.",
                format_size=format_bytes(self._limits.file_bytes),
                size_variable=SIZE_VARIABLE,
            ),
            413,
        )


def safe_name(name: str) -> str:
    """A file name that is valid on every system, from the name that the browser sent; the suffix is kept."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*')
    stem, dot, ending = kept.strip().rstrip(". ").rpartition(".")
    stem, ending = (stem, ending) if dot else (ending, "")
    short = stem.encode("utf-8", errors="ignore")[:150].decode("utf-8", errors="ignore")
    return f"{short or 'file'}{dot}{ending.encode('utf-8', errors='ignore')[:20].decode('utf-8', errors='ignore')}"


async def _limited_stream(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body up to ``most`` bytes; a chunked body has no length header.

    Raises:
        MultiPartException: The body is longer.
    """
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise MultiPartException("The form exceeded the maximum allowed size.")
        yield chunk


def _age(folder: Path) -> float:
    """Seconds since the folder was changed, infinity if that is in the future."""
    age = time.time() - folder.stat().st_mtime
    return age if age >= 0 else math.inf


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def offer(path: Path, name: str) -> str | None:
    """Path of a copy of the file for download under ``name``; None if the file does not exist.

    The page serves no study folder, only copies in the folder of the server.
    """
    if not path.is_file():
        return None
    copy = server_folder() / stamp([path]) / name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    return str(copy)


def new_folder() -> Path:
    """A new temporary folder for a file that the page creates, such as edited rows."""
    return Path(tempfile.mkdtemp(dir=server_folder()))


def offer_bytes(content: bytes, name: str) -> str:
    """Path of a file with this content for download under ``name``."""
    copy = server_folder() / hashlib.sha256(content).hexdigest()[:16] / name
    if not copy.exists():
        write_bytes(copy, content)
    return str(copy)
