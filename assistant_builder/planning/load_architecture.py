"""Load the architecture of a model by name: from the catalog, the published models, a folder, or the hub's config.json.

The published models are those for which papers and guides quote figures, so that each figure can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.catalog import CATALOG, CatalogEntry, resolve, sizes
from assistant_builder.models.checkpoint_dir import check_architecture, existing_path, read_config
from assistant_builder.models.fetch import fetch_config
from assistant_builder.planning.architecture import Architecture, build, is_known
from assistant_builder.planning.probe import probe


def _published() -> dict[str, CatalogEntry]:
    rows = yaml.safe_load(Path(__file__).with_name("published_models.yaml").read_text("utf-8"))
    return {
        row["name"]: CatalogEntry(
            name=row["name"],
            hub_id=row.get("hub_id", ""),
            parameters=row["parameters"],
            licence="",
            context_length=row["context_length"],
            good_for="",
            config=sizes(*row["sizes"], **row.get("more", {})),
        )
        for row in rows
    }


PUBLISHED_MODELS = _published()


def load_architecture(model: str, revision: str | None = None) -> tuple[str, Architecture]:
    """Load name and architecture of a model of the catalog or :data:`PUBLISHED_MODELS`, a hub id or a folder.

    Raises:
        ModelError: The model is unknown or not reachable, or its config is invalid.
    """
    known = _shipped(model) if revision is None else None
    if known is not None:
        return known[0], build(known[1])
    path = existing_path(model.strip())
    if path is not None and (path / "config.json").is_file():
        folder, name = path, path.resolve().name
    else:
        ref = resolve(model)
        folder = ref.folder or fetch_config(str(ref.hub_id), revision)
        name = ref.name
    return name, architecture_from_folder(folder)


def architecture_from_folder(folder: Path) -> Architecture:
    """Load the architecture from a folder's config.json.

    Raises:
        ModelError: It is missing, damaged, or does not describe a causal language model.
    """
    file = folder / "config.json"
    return _from_file(str(folder.resolve()), file_hash(file) if file.is_file() else "")


@lru_cache(maxsize=32)
def _from_file(folder: str, file_sha256: str) -> Architecture:
    # the file's hash is part of the cache key, so that the slow probe runs once per config
    config = read_config(Path(folder))
    check_architecture(config, Path(folder))
    where = str(Path(folder) / "config.json")
    try:
        if is_known(config):
            return build(config)
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(
            m("a value has the wrong type: {error}", error=str(error)[:200]),
            where=where,
            remedy=m("Copy config.json again from its source"),
        ) from error
    return probe(Path(folder))


def _shipped(model: str) -> tuple[str, Mapping[str, Any]] | None:
    # name and config of a model whose sizes are part of this package
    text = model.strip().casefold()
    for entry in (*CATALOG.values(), *PUBLISHED_MODELS.values()):
        if text in (entry.name, entry.hub_id.casefold() or entry.name):
            return entry.name, {"max_position_embeddings": entry.context_length, **entry.config}
    return None
