"""Stores and machines that are lost within a second, and steps that sleep instead of computing."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from assistant_builder.jobs import local, standing
from tests.cluster.conftest import fake_command


@pytest.fixture
def memory() -> Iterator[str]:
    """URL of an empty store in this process."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://of-tests/studies"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def sleeping_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps do as ``fake_step.py`` says, and nothing else."""
    monkeypatch.setattr(standing, "step_inputs", lambda study, step, **_: {})
    monkeypatch.setattr(local, "command", fake_command)
    monkeypatch.setattr(local, "require_study_fit", lambda study: None)
