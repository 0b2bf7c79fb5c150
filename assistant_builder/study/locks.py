"""Locks of study folders, identities of processes, and freshness of leases.

A run holds a file lock, which the operating system releases when its process dies. A step on another machine is alive
while its lease is renewed (:mod:`assistant_builder.store.lease`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from assistant_builder.atomic_io import read_json
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import StudyError
from assistant_builder.study.containment import check_folder

STALE_SECONDS = 20.0
"""Age at which a lease counts as lost; the clocks of two machines must differ by less."""


@contextmanager
def folder_lock(folder: Path, taken: StudyError) -> Iterator[None]:
    """Lock a folder for this process; raises ``taken`` if another process holds the lock."""
    check_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise taken from None
    except OSError as error:
        raise translate_error(error) from error
    try:
        yield
    finally:
        lock.release()


def process_identity(pid: int) -> str | float:
    """A value that distinguishes a process from all others that had or will have the same id on this machine.

    On Linux it consists of the boot id and the start time in clock ticks since boot, which do not depend on the wall
    clock. Elsewhere it is the start time in seconds since 1970.
    """
    boot, stat = _boot_id(), _proc_stat(pid)
    return f"{boot}/{stat[1]}" if boot and stat else float(psutil.Process(pid).create_time())


def process_alive(pid: int | None, started: str | float | None) -> bool:
    """Whether the process with this id and :func:`process_identity` is running."""
    if pid is None or started is None:
        return False
    try:
        if isinstance(started, str):
            stat = _proc_stat(pid)
            dead = stat is None or stat[0] in ("Z", "X")
            return not dead and process_identity(pid) == started
        process, zombie = psutil.Process(pid), psutil.STATUS_ZOMBIE
        return abs(process.create_time() - started) < 1.0 and process.status() != zombie
    except (psutil.Error, ValueError, OverflowError):  # the last two: no id that a process can have
        return False


def is_lease_fresh(path: Path) -> bool:
    """Whether the lease in a file was renewed recently."""
    try:
        record = read_json(path)
    except (OSError, StudyError):
        return False
    return is_recent(record)


def is_recent(lease: Mapping[str, Any], latency_factor: float = 1.0) -> bool:
    """Whether a lease record was renewed within ``STALE_SECONDS`` times the latency factor of its backend."""
    try:
        return bool(abs(time.time() - lease["time"]) < STALE_SECONDS * latency_factor)
    except (KeyError, TypeError, OverflowError):
        return False


def _proc_stat(pid: int) -> tuple[str, int] | None:
    """State of a process and its start in clock ticks since boot; None on systems without ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # the process name before may contain spaces and parentheses
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
