"""One study's objects in a store: S3-compatible, or any other that fsspec reaches by a URL.

A store knows neither renaming nor appending: an object is put there whole, or not at all. The libraries for each kind
of store find their credentials in the environment; none is in a URL, a setting, an error or a log.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError, StoreError

_MARKS = ("ETag", "etag", "md5Hash", "generation", "created", "mtime", "LastModified", "last_modified", "size")
"""What file systems tell of an object that changes when the object does."""
_NO_CREDENTIALS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "DefaultCredentials")
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Forbidden", "ExpiredToken", "InvalidToken")
_PATIENCE_SECONDS, _AGAIN_SECONDS = 120.0, 1.0
_EXTRAS = {"s3": "assistant-builder[store]", "s3a": "assistant-builder[store]"}


class Store:
    """The objects below one URL, by their names from there.

    Args:
        url: URL of the study in the store, ``s3://bucket/folder/NAME``.

    Raises:
        StoreError: The library for this kind of store is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = _file_system(self.url)

    def marks(self) -> dict[str, str]:
        """Every object's name, with what changes when the object does.

        Raises:
            StoreError: The store cannot be reached, refuses us, or has no such bucket.
        """
        with self._told():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                self._require_bucket()
                return {}
        start = len(self._root) + 1
        return {path[start:]: _mark(info) for path, info in found.items() if path[start:] and path[-1] != "/"}

    def read(self, name: str) -> bytes | None:
        """What an object holds; None where there is none."""
        with self._told():
            try:
                content: bytes = self._fs.cat_file(self._path(name))
                return content
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        with self._told():
            self._make_room(name)
            self._fs.pipe_file(self._path(name), content)

    def upload(self, name: str, path: Path) -> None:
        """Put a file as an object; FileNotFoundError where there is no such file."""
        try:
            with self._told():
                self._make_room(name)
                self._fs.put_file(str(path), self._path(name))
        except StoreError:
            path.stat()
            raise

    def download(self, name: str, path: Path) -> bool:
        """Replace a file by an object, whole or not at all.

        Returns:
            False where there is no such object any more.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            with self._told():
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
        """Remove objects one after the other; those that are not there are no error."""
        for name in names:
            with self._told():
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_room(self, name: str) -> None:
        """Make the folder of an object, where there are folders; object stores would make a bucket instead."""
        if not self._fs.async_impl:
            self._fs.makedirs(posixpath.dirname(self._path(name)), exist_ok=True)

    def _require_bucket(self) -> None:
        """Tell a bucket that is not there from one that holds nothing of this study."""
        if not self._fs.async_impl:
            return
        bucket = self._root.split("/")[0]
        if not self._fs.exists(bucket):
            raise StoreError(f"there is no bucket {bucket!r}", where=self.url,
                             remedy="Check executor.store, or make the bucket")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the many libraries raise into one sentence."""
        try:
            yield
        except AssistantBuilderError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the disk here
                raise
            raise self._error(error) from error
        except Exception as error:  # botocore's are no OSErrors, nor are those of other stores
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        kinds = "".join(kind.__name__ for kind in type(error).__mro__)
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if any(sign in kinds for sign in _NO_CREDENTIALS):
            return StoreError(
                "the environment holds no credentials for the store", where=self.url,
                remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what this kind of store asks for",
            )
        if isinstance(error, PermissionError) or any(sign in said for sign in _REFUSED):
            return StoreError(f"the store refuses the credentials: {said}", where=self.url,
                              remedy="Check the credentials in the environment, and what they allow")
        if "NoSuchBucket" in said or "bucket does not exist" in said:
            return StoreError("there is no such bucket", where=self.url,
                              remedy="Check executor.store, or make the bucket")
        return StoreError(
            f"the store does not answer as it should: {said}", where=self.url,
            remedy="Check the address (for S3 that is not Amazon's AWS_ENDPOINT_URL) and the network; running again "
            "carries on, and nothing that is here is lost",
        )


@dataclass(frozen=True)
class StoredFile:
    """A lease's place in a store; a store answers in tenths of a second, where a shared path does in thousandths."""

    store: Store
    name: str
    patience: float = 3.0

    def read(self) -> dict[str, Any] | None:
        """What lies there; None if nothing does, or it is damaged."""
        try:
            found = json.loads(self.store.read(self.name) or b"")
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the object."""
        self.store.write(self.name, json.dumps(record).encode())

    def remove(self) -> None:
        """Remove the object."""
        self.store.remove([self.name])

    def stands(self) -> bool:
        """True: a store has no folder that could be gone."""
        return True


def patiently(work: Callable[[], None]) -> None:
    """Do something with a store, and again for two minutes where it does not answer: hours of work may hang on it.

    Args:
        work: What is done; it may be done twice.

    Raises:
        StoreError: The store does not answer.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return work()
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(_AGAIN_SECONDS)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL means, and the path in it."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        fs, root = fsspec.url_to_fs(url)
    except ImportError as error:
        wanted = _EXTRAS.get(protocol)
        raise StoreError(
            f"{protocol}:// needs a library that cannot be imported: {error}", where=url,
            remedy=f"Install it with pip install '{wanted}', on every machine" if wanted
            else "Install it, on every machine",
        ) from error
    except ValueError as error:
        raise StoreError(f"fsspec knows no {protocol}://: {error}", where=url,
                         remedy="Check executor.store; an example is s3://bucket/folder") from error
    return fs, str(fs._strip_protocol(root)).rstrip("/")


def _mark(info: dict[str, Any]) -> str:
    told = [str(info[key]) for key in _MARKS if key in info]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
