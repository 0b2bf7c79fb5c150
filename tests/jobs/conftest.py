"""Stores and machines that are lost within a second, and steps that sleep instead of computing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from assistant_builder.jobs import local, standing
from tests.cluster.conftest import fake_command


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty store in this process.

    As in a real store, every reader has a position of its own, and nobody sees an object that is half written: threads
    stand for nodes here, and fsspec's file system in memory lets them share both.
    """
    plain = MemoryFileSystem._open

    def opened(self: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> MemoryFile:
        file: MemoryFile = plain(self, path, mode, **options)
        return MemoryFile(None, None, file.getvalue()) if mode == "rb" else file

    def put_file(self: MemoryFileSystem, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    monkeypatch.setattr(MemoryFileSystem, "_open", opened)
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    fsspec.filesystem("memory").store.clear()
    yield "memory://of-tests/studies"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def sleeping_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps do as ``fake_step.py`` says, and nothing else."""
    monkeypatch.setattr(standing, "step_inputs", lambda study, step, **_: {})
    monkeypatch.setattr(local, "command", fake_command)
    monkeypatch.setattr(local, "require_study_fit", lambda study: None)
