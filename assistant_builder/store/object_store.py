"""The objects of one study in an S3-compatible store or any other store that fsspec supports.

Objects are written atomically and can be neither renamed nor appended to. Credentials are read from the environment by
the library of the store; they are never part of a URL, setting, error or log.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError, StoreError
from assistant_builder.i18n import m
from assistant_builder.store_kinds import example_urls, store_kind
from assistant_builder.study.containment import is_plain_name, is_too_large, path_inside

_VERSION_KEYS = "ETag etag md5Hash generation created mtime LastModified last_modified size".split()
"""Metadata of various file systems that change with the object."""
_NO_CREDENTIALS = "NoCredentials PartialCredentials CredentialRetrieval DefaultCredentials".split()
_REFUSED = "InvalidAccessKeyId SignatureDoesNotMatch AccessDenied Forbidden ExpiredToken InvalidToken".split()
_RETRY_SECONDS, _RETRY_INTERVAL_SECONDS = 120.0, 1.0


class ObjectStore:
    """The objects below one URL, ``s3://bucket/folder/NAME``, named relative to it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = _file_system(self.url)
        self._is_folder = getattr(self._fs, "local_file", False)

    def versions(self) -> dict[str, str]:
        """Name → version of every object, an opaque string that changes with the object.

        Raises:
            StoreError: The store does not answer, or an object is none of a study: its name leads out of the folder, it
                is no plain file, or too large.
        """
        with self._translate_errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                bucket = self._root.split("/")[0]
                if self._fs.async_impl and not self._fs.exists(bucket):
                    raise StoreError(
                        m("there is no bucket {bucket!r}", bucket=bucket),
                        where=self.url,
                        remedy=m("Check executor.store, or create the bucket"),
                    ) from None
                return {}
        start = len(self._root) + 1
        objects = {
            path[start:]: info for path, info in found.items() if path[start:] and path[-1] != "/"
        }
        for name, info in objects.items():
            if (
                not is_plain_name(name)
                or info.get("islink")
                or info.get("type", "file") != "file"
                or is_too_large(name, info.get("size") or 0)
            ):
                raise StoreError(
                    m(
                        "the store contains {name!r}, which is not a file of a {study}",
                        name=name[:200],
                    ),
                    where=self.url,
                    remedy=m(
                        "Remove that object, or ask whoever made the store; nothing was downloaded"
                    ),
                )
        return {name: _version(info) for name, info in objects.items()}

    def read(self, name: str) -> bytes | None:
        """Content of an object; None if it does not exist."""
        with self._translate_errors():
            try:
                content: bytes = self._fs.cat_file(self._path(name))
                return content
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        with self._translate_errors():
            self._make_parent(name)
            self._fs.pipe_file(self._path(name), content)

    def upload(self, name: str, path: Path) -> None:
        """Upload a file; raises FileNotFoundError if it does not exist."""
        try:
            with self._translate_errors():
                self._make_parent(name)
                self._fs.put_file(str(path), self._path(name))
        except StoreError:
            path.stat()
            raise

    def download(self, name: str, path: Path) -> bool:
        """Download an object into a file atomically; returns False if the object no longer exists."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            with self._translate_errors():
                try:
                    self._fs.get_file(self._path(name), temporary)
                except FileNotFoundError:
                    return False
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            return True
        finally:
            Path(temporary).unlink(missing_ok=True)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects in the given order; missing objects are ignored."""
        for name in names:
            with self._translate_errors():
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def _path(self, name: str) -> str:
        if self._is_folder:  # it can contain links
            return path_inside(Path(self._root), name).as_posix()
        return f"{self._root}/{name}"

    def _make_parent(self, name: str) -> None:
        """Create the folder of an object on file systems with folders; in an object store it would create a bucket."""
        if not self._fs.async_impl:
            self._fs.makedirs(posixpath.dirname(self._path(name)), exist_ok=True)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except AssistantBuilderError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the local disk
                raise
            raise self._error(error) from error
        except Exception as error:  # exceptions of botocore and others are not OSErrors
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        type_names = "".join(kind.__name__ for kind in type(error).__mro__)
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if any(sign in type_names for sign in _NO_CREDENTIALS):
            return StoreError(
                m("the environment contains no credentials for the store"),
                where=self.url,
                remedy=store_kind(self.url).credentials_remedy,
            )
        if isinstance(error, PermissionError) or any(sign in message for sign in _REFUSED):
            return StoreError(
                m("the store refuses the credentials: {message}", message=message),
                where=self.url,
                remedy=m("Check the credentials in the environment and their permissions"),
            )
        if "NoSuchBucket" in message or "bucket does not exist" in message:
            return StoreError(
                m("there is no such bucket"),
                where=self.url,
                remedy=m("Check executor.store, or create the bucket"),
            )
        return StoreError(
            m("the request to the store failed: {message}", message=message),
            where=self.url,
            remedy=m(
                "Check the network and the address (AWS_ENDPOINT_URL for S3 that is not Amazon's), then run again to "
                "resume; the files on this machine are complete"
            ),
        )


def retry_until_timeout(work: Callable[[], None]) -> None:
    """Call an idempotent function; on StoreError, retry for two minutes before raising it."""
    until = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            return work()
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(_RETRY_INTERVAL_SECONDS)


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        fs, root = fsspec.url_to_fs(url)
    except ImportError as error:
        package = store_kind(url).package
        raise StoreError(
            m(
                "{protocol}:// needs a library that cannot be imported: {error}",
                protocol=protocol,
                error=error,
            ),
            where=url,
            remedy=m("Install it with pip install {package!r}, on every machine", package=package)
            if package
            else m("Install it on every machine"),
        ) from error
    except ValueError as error:
        raise StoreError(
            m("fsspec does not support {protocol}://: {error}", protocol=protocol, error=error),
            where=url,
            remedy=m(
                "Check executor.store; examples are {example_urls}",
                example_urls=", ".join(example_urls()),
            ),
        ) from error
    return fs, str(fs._strip_protocol(root)).rstrip("/")


def _version(info: dict[str, Any]) -> str:
    values = [str(info[key]) for key in _VERSION_KEYS if key in info]
    return hashlib.sha256("\n".join(values).encode()).hexdigest()[:16]
