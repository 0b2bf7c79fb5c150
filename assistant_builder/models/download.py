"""Bring a base model onto this machine, wherever it comes from."""

from __future__ import annotations

import shutil
from pathlib import Path

from assistant_builder.errors import AssistantBuilderError, ModelError, ResourceError
from assistant_builder.models import bundled, hub
from assistant_builder.models.catalog import ModelRef
from assistant_builder.models.checkpoint_dir import check_folder
from assistant_builder.models.hub import available_models_sentence
from assistant_builder.models.wheel_download import Report, no_progress


def fetch(
    ref: ModelRef, *, revision: str | None = None, trust_remote_code: bool = False, report: Report = no_progress
) -> Path:
    """The local folder of a base model: config.json, safetensors, tokenizer.json.

    A hub model that is in the hub's cache is used from there without asking the network.

    Args:
        ref: The model, as :func:`~assistant_builder.models.catalog.resolve` found it.
        revision: Branch, tag or commit of a hub model; None: its main branch.
        trust_remote_code: Whether the model's own Python code may come along.
        report: Told of the progress; raising from it stops the work.

    Raises:
        ModelError: The model cannot be had, is gated or unknown, or is none that can be tuned; names what is at hand.
        ResourceError: The disk is too full.
    """
    if ref.kind != "hub" and revision is not None:
        raise ModelError(f"{ref.name} has no revisions, but {revision!r} was asked for",
                         remedy="Leave model.revision empty, or name a hub model (owner/name)")
    if ref.kind == "bundled":
        return bundled.ensure_base_model(report)
    if ref.folder is not None:
        check_folder(ref.folder, trust_remote_code=trust_remote_code)
        return ref.folder
    if ref.hub_id is None:
        raise ModelError(f"{ref.name!r} names neither a folder nor a hub model", remedy=available_models_sentence())
    return _from_hub(ref.hub_id, revision, trust_remote_code, report)


def fetch_config(hub_id: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache that holds a hub model's config.json; the weights are not needed for it.

    Raises:
        ModelError: The model cannot be had; names what is at hand.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(hub_id, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        if hub.offline():
            raise ModelError(f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE is set",
                             remedy=f"Unset HF_HUB_OFFLINE. {available_models_sentence()}")
        hub.model_info(hub_id, revision)  # gives up at once where the download would try again and again
        return Path(hf_hub_download(hub_id, "config.json", revision=revision)).parent
    except AssistantBuilderError:
        raise
    except Exception as error:  # see hub.py: the client's errors differ between its releases
        raise _explained(error, hub_id, revision) from error


def _from_hub(hub_id: str, revision: str | None, trust_remote_code: bool, report: Report) -> Path:
    cached = _usable(hub_id, revision, trust_remote_code)
    if cached is not None:
        return cached
    if hub.offline():
        raise ModelError(f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE is set",
                         remedy=f"Unset HF_HUB_OFFLINE. {available_models_sentence()}")
    report(0, 1, f"Looking up {hub_id}")
    try:
        info = hub.model_info(hub_id, revision)
        sizes = {
            file.rfilename: file.size or 0
            for file in info.siblings or []
            if hub.is_wanted(file.rfilename, code=trust_remote_code)
        }
        if not any(name.endswith(".safetensors") for name in sizes):
            raise ModelError(f"{hub_id} has no safetensors weights on the hub",
                             remedy="Choose a model that has; pickled and GGUF weights are not accepted")
        _check_disk(hub_id, sizes)
        folder = hub.download(hub_id, revision, sizes, code=trust_remote_code, report=report)
        damaged = hub.damaged_files(folder, info, code=trust_remote_code)
        if damaged:
            hub.delete_from_cache(folder, damaged)
            raise ModelError(f"{', '.join(damaged)} of {hub_id} came damaged from the hub, and was removed",
                             remedy="Run again: it is downloaded anew. If it comes damaged again, something between "
                             "here and the hub changes it")
    except AssistantBuilderError:
        raise
    except Exception as error:  # see hub.py: the client's errors differ between its releases
        raise _explained(error, hub_id, revision) from error
    check_folder(folder, trust_remote_code=trust_remote_code)
    return folder


def _usable(hub_id: str, revision: str | None, trust_remote_code: bool) -> Path | None:
    """The cached snapshot, if it is whole; a wrong kind of model is fetched anew and refused then."""
    try:
        folder = hub.cached_snapshot(hub_id, revision, code=trust_remote_code)
        if folder is not None:
            check_folder(folder, trust_remote_code=trust_remote_code)
    except ModelError:
        if hub.offline():
            raise
        return None
    except ValueError as error:
        raise ModelError(f"{hub_id!r} is no hub id: {hub.error_summary(error)}", remedy=available_models_sentence()) from error
    return folder


def _check_disk(hub_id: str, sizes: dict[str, int]) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free, needed = shutil.disk_usage(existing).free, sum(sizes.values())
    if needed > free:
        raise ResourceError(f"{hub_id} needs {needed / 1e9:.1f} GB of disk; {free / 1e9:.1f} GB are free",
                            where=str(cache), remedy="Free disk space, or set HF_HOME to another disk")


def _explained(error: Exception, hub_id: str, revision: str | None) -> AssistantBuilderError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{hub_id} is gated: its owner wants its terms accepted first",
            remedy=f"Accept them on the model's page, then log in with 'hf auth login'. {available_models_sentence()}",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{hub_id} has no revision {revision!r}", remedy="Leave model.revision empty, or correct it")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"there is no model {hub_id} on the hub (or it is private), and no folder of that name",
            remedy=f"Check the spelling, or log in with 'hf auth login'. {available_models_sentence()}",
        )
    if isinstance(error, HfHubHTTPError):
        return ModelError(f"the hub refused {hub_id}: {hub.error_summary(error)}", remedy=available_models_sentence())
    return ModelError(
        f"no model hub in reach for {hub_id} ({hub.error_summary(error)})",
        remedy=f"Connect to the hub, or use a model that is here. {available_models_sentence()}",
    )
