"""Fixtures for every test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the product at an empty home, so that no test touches the user's studies."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
    return folder
