"""The base model that the settings of a study name."""

from __future__ import annotations

from pathlib import Path

from assistant_builder.config import ModelConfig
from assistant_builder.models.catalog import ModelRef, resolve
from assistant_builder.models.fetch import fetch
from assistant_builder.models.remote_code import allows_code


def base_ref(model: ModelConfig) -> ModelRef:
    """The base model; errors are those of :func:`resolve`."""
    return resolve(model.base, trust_remote_code=allows_code(model))


def fetch_base(model: ModelConfig) -> Path:
    """Folder of the base model, which is downloaded if it is not on this machine; errors are those of :func:`fetch`."""
    return fetch(base_ref(model), revision=model.revision, trust_remote_code=allows_code(model))
