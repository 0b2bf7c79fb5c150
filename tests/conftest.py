"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assistant_builder.models import bundled


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if any(item.get_closest_marker(name) for name in ("browser", "train"))}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the product at an empty home, so that no test touches the user's studies."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """A home of the tests' own that outlives them, with the bundled models made in it once."""
    folder = Path(os.environ.get("ASSISTANT_BUILDER_TEST_CACHE") or Path.home() / ".cache" / "assistant-builder-tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
        bundled.ensure_base_model()
        bundled.ensure_embedder()
    return folder


@pytest.fixture(scope="session")
def compute_dtype() -> str:
    """What models compute in on this machine: bfloat16 where the processor has it, else float32."""
    from assistant_builder.models.loading import resolve_compute_dtype

    return resolve_compute_dtype("auto", "cpu")


@pytest.fixture
def bundled_models(home: Path, model_cache: Path) -> Path:
    """Put the bundled models into the test's home, as links; returns the home's ``models`` folder."""
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    for bundle in bundled.BUNDLES:
        (models / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    return models
