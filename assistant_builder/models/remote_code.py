"""Whether the Python code that a base model brings along may run: allowed by the user for one command, never by a file.

A study's folder, its ``study.yaml`` and a store can come from somebody else, so none of them can allow code. What the
user allows is kept in the environment of this process, by the name of the folder or repository, and inherited by the
processes that it starts; it ends with them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.config import ModelConfig
from assistant_builder.errors import ModelError
from assistant_builder.models import hub
from assistant_builder.models.catalog import CATALOG
from assistant_builder.models.checkpoint_dir import ALLOW_CODE, needs_own_code, read_config

VARIABLE = "ASSISTANT_BUILDER_TRUST_REMOTE_CODE"
"""JSON list of what this process and those that it starts may run the code of."""


@dataclass(frozen=True)
class ModelCode:
    """Python code that comes with a base model.

    Attributes:
        source: The folder's absolute path, or ``owner/name``, with ``@revision`` where one is set.
        files: Names of its Python files; empty for a repository.
    """

    source: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.source} ({', '.join(self.files)})" if self.files else self.source


def model_code(model: ModelConfig) -> ModelCode:
    """Where the code of a base model comes from, whether or not it has any; asks no network."""
    base = model.base.strip()
    folder = Path(base).expanduser()
    if folder.is_dir():
        files = tuple(sorted(path.name for path in folder.glob("*.py")))
        return ModelCode(os.path.abspath(folder), files)  # links stay: nodes of a cluster may resolve them otherwise
    return ModelCode(f"{base}@{model.revision}" if model.revision else base)


def code_needing_permission(model: ModelConfig) -> ModelCode | None:
    """The code that the user has to allow before the model can be used; None where the model needs none."""
    code = model_code(model)
    if model.trust_remote_code:
        return code
    folder = Path(code.source)
    if not folder.is_dir() and "/" in model.base and model.base.strip().casefold() not in CATALOG:
        try:
            folder = hub.cached_snapshot(model.base.strip(), model.revision, code=False) or folder
        except ValueError:  # no hub id
            return None
    try:
        return code if needs_own_code(read_config(folder)) else None
    except ModelError:  # what a repository needs is known once its config is here
        return None


def allow_code(model: ModelConfig) -> ModelCode:
    """Allow the code of a base model in this process and in those that it starts; returns what was allowed."""
    code = model_code(model)
    os.environ[VARIABLE] = json.dumps(sorted({*_allowed(), code.source}))
    return code


def is_allowed(source: str) -> bool:
    """Whether the user allowed the code of a folder or repository, by the name that :class:`ModelCode` gives it."""
    return source in _allowed()


def allows_code(model: ModelConfig) -> bool:
    """Whether the code of a base model may run here.

    Raises:
        ModelError: The settings ask for it, and the user did not allow it.
    """
    code = model_code(model)
    allowed = is_allowed(code.source)
    if model.trust_remote_code and not allowed:
        raise ModelError(
            f"the settings ask to run the Python code of {code}, which no file can allow",
            where="model.trust_remote_code",
            remedy=f"Read that code, then {ALLOW_CODE}; or set model.trust_remote_code=false",
        )
    return allowed


def trust_environment() -> dict[str, str]:
    """The variable for processes that do not inherit this environment: those on nodes of a cluster."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


def _allowed() -> frozenset[str]:
    try:
        named = json.loads(os.environ.get(VARIABLE, "[]"))
    except ValueError:
        return frozenset()
    return frozenset(name for name in named if isinstance(name, str)) if isinstance(named, list) else frozenset()
