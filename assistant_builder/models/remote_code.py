"""Permission to run the Python code of a base model, which the user gives per command and no file can give.

A study folder, its ``study.yaml`` and a store can come from others, so they cannot allow code. Permissions are stored
in the environment of this process by folder or repository name, and child processes inherit them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.config import ModelConfig
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models import hub
from assistant_builder.models.catalog import CATALOG
from assistant_builder.models.checkpoint_dir import (
    ALLOW_CODE,
    existing_path,
    needs_own_code,
    read_config,
)

VARIABLE = "ASSISTANT_BUILDER_TRUST_REMOTE_CODE"
"""JSON list of the folders and repositories whose code this process and its children may run."""


@dataclass(frozen=True)
class ModelCode:
    """Python code of a base model: an absolute path with its files, or ``owner/name`` with ``@revision`` if set."""

    source: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.source} ({', '.join(self.files)})" if self.files else self.source


def _model_code(model: ModelConfig) -> ModelCode:
    # the source of its code, whether or not it has any, without network access
    base = model.base.strip()
    folder = existing_path(base)
    if folder is not None and folder.is_dir():
        files = tuple(sorted(path.name for path in folder.glob("*.py")))
        # without resolving links, which may differ on cluster nodes
        return ModelCode(os.path.abspath(folder), files)
    return ModelCode(f"{base}@{model.revision}" if model.revision else base)


def code_needing_permission(model: ModelConfig) -> ModelCode | None:
    """Return the code that the user must allow before the model can be used, or None."""
    code = _model_code(model)
    if model.trust_remote_code:
        return code
    folder = Path(code.source)
    if not folder.is_dir() and "/" in model.base and model.base.strip().casefold() not in CATALOG:
        name, files = model.base.strip(), hub.base_files(code=False)
        try:
            folder = hub.cached_snapshot(name, model.revision, files) or folder
        except ValueError:  # not a hub id
            return None
    try:
        return code if needs_own_code(read_config(folder)) else None
    except ModelError:  # unknown until config.json is downloaded
        return None


def allow_code(model: ModelConfig) -> ModelCode:
    """Allow the code of a base model in this process and its children; return the code."""
    code = _model_code(model)
    os.environ[VARIABLE] = json.dumps(sorted({*_allowed(), code.source}))
    return code


def is_allowed(source: str) -> bool:
    """Return whether the user allowed the code of a :attr:`ModelCode.source`."""
    return source in _allowed()


def allows_code(model: ModelConfig) -> bool:
    """Return whether the code of a base model may run.

    Raises:
        ModelError: The settings request it, but the user did not allow it.
    """
    code = _model_code(model)
    allowed = is_allowed(code.source)
    if model.trust_remote_code and not allowed:
        raise ModelError(
            m(
                "the settings request to run the Python code of {code}, which no file can allow",
                code=code,
            ),
            where="model.trust_remote_code",
            remedy=m(
                "Review that code, then {allow_code}; or set {model.trust_remote_code=false}",
                allow_code=ALLOW_CODE,
            ),
        )
    return allowed


def trust_environment() -> dict[str, str]:
    """Return the variable for processes on cluster nodes, which do not inherit this environment."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


def _allowed() -> frozenset[str]:
    try:
        names = json.loads(os.environ.get(VARIABLE, "[]"))
    except ValueError:
        return frozenset()
    names = names if isinstance(names, list) else []
    return frozenset(name for name in names if isinstance(name, str))
