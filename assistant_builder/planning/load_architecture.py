"""From a model's name to its architecture: the catalog, the references, a folder, or the hub's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import ModelError
from assistant_builder.models.catalog import CATALOG, CatalogEntry, resolve
from assistant_builder.models.checkpoint_dir import check_architecture, read_config
from assistant_builder.models.download import fetch_config
from assistant_builder.planning.architecture import Architecture
from assistant_builder.planning.families import build, is_known
from assistant_builder.planning.probe import probe
from assistant_builder.planning.published_models import PUBLISHED_MODELS, PublishedModel


def load_architecture(model: str, revision: str | None = None) -> tuple[str, Architecture]:
    """What a model consists of, without its weights.

    Args:
        model: A name of the catalog or of :data:`REFERENCES`, a hub id, or a folder with a config.json.
        revision: Branch, tag or commit of a hub model.

    Returns:
        What to call it, and its architecture.

    Raises:
        ModelError: The model is unknown or out of reach, or its config is broken.
    """
    known = _shipped(model) if revision is None else None
    if known is not None:
        return known[0], build(known[1])
    path = Path(model.strip()).expanduser()
    if (path / "config.json").is_file():
        folder, name = path, path.resolve().name
    else:
        ref = resolve(model)
        folder = ref.folder or fetch_config(str(ref.hub_id), revision)
        name = ref.name
    return name, architecture_from_folder(folder)


def architecture_from_folder(folder: Path) -> Architecture:
    """The architecture of a folder's config.json.

    Raises:
        ModelError: It is missing, damaged, or no causal language model's.
    """
    file = folder / "config.json"
    return _from_file(str(folder.resolve()), file_hash(file) if file.is_file() else "")


@lru_cache(maxsize=32)
def _from_file(folder: str, seen: str) -> Architecture:
    """``seen`` is the file's hash, so that the model's own code is asked once."""
    config = read_config(Path(folder))
    check_architecture(config, Path(folder))
    where = str(Path(folder) / "config.json")
    try:
        if is_known(config):
            return build(config)
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"a value is of a wrong kind: {str(error)[:200]}", where=where,
                         remedy="Copy config.json again from where the model came from") from error
    return probe(Path(folder))


def _shipped(model: str) -> tuple[str, Mapping[str, Any]] | None:
    """Name and config of a model whose sizes are shipped."""
    text = model.strip().casefold()
    entries: list[CatalogEntry | PublishedModel] = [*CATALOG.values(), *PUBLISHED_MODELS.values()]
    for entry in entries:
        if text == entry.name or (entry.hub_id and text == entry.hub_id.casefold()):
            return entry.name, entry.config
    return None
