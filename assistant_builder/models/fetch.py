"""Download of a base model from its source to this machine."""

from __future__ import annotations

from pathlib import Path

from assistant_builder.atomic_io import require_disk_space
from assistant_builder.config import ModelConfig
from assistant_builder.errors import AssistantBuilderError, ModelError
from assistant_builder.i18n import m
from assistant_builder.models import bundled, hub
from assistant_builder.models.catalog import ModelRef, resolve, weight_bytes
from assistant_builder.models.checkpoint_dir import check_folder, existing_path
from assistant_builder.models.hub import available_models_sentence
from assistant_builder.models.remote_code import allows_code
from assistant_builder.models.wheel_download import Report, no_progress


def fetch(
    ref: ModelRef,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Report = no_progress,
) -> Path:
    """Return the local folder of a base model; download it if it is neither local nor in the hub's cache.

    ``trust_remote_code``: whether the model's own Python code may be downloaded. An exception from ``report`` cancels
    the work.

    Raises:
        ModelError: The model is not available, gated, unknown or not supported; the remedy lists available models.
        ResourceError: There is not enough disk space.
    """
    if ref.kind != "hub" and revision is not None:
        raise ModelError(
            m(
                "{name} has no revisions, but model.revision={revision!r} is set",
                name=ref.name,
                revision=revision,
            ),
            remedy=m("Leave {model.revision} empty, or use a hub model (owner/name)"),
        )
    if ref.kind == "bundled":
        return bundled.ensure_base_model(report)
    if ref.folder is not None:
        check_folder(ref.folder, trust_remote_code=trust_remote_code)
        return ref.folder
    hub_id = str(ref.hub_id)
    cached = _usable(hub_id, revision, trust_remote_code)
    if cached is not None:
        return cached
    folder = _download(hub_id, revision, hub.base_files(code=trust_remote_code), report)
    check_folder(folder, trust_remote_code=trust_remote_code)
    return folder


def fetch_base(model: ModelConfig) -> Path:
    """Return the local folder of a study's base model. Its own code is used only if it is allowed."""
    trust = allows_code(model)
    ref = resolve(model.base, trust_remote_code=trust)
    return fetch(ref, revision=model.revision, trust_remote_code=trust)


def needs_embedder_download(model: str) -> bool:
    """Return whether ``retrieval.embedder`` names a model of the hub that is not on this machine."""
    if model in bundled.BUNDLED_EMBEDDERS:
        return False
    folder = existing_path(model)
    return not (folder and folder.is_dir()) and _cached_embedder(model) is None


def _cached_embedder(hub_id: str) -> Path | None:
    try:
        folder = hub.cached_snapshot(hub_id, None, hub.EMBEDDER)
    except ValueError:  # not a hub id
        return None
    if folder is None or not (folder / "config.json").is_file():
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def fetch_embedder(hub_id: str, report: Report = no_progress) -> Path:
    """Return the local folder of a hub's sentence embedder; download it if needed, without code and pickled weights.

    An exception from ``report`` cancels the work.

    Raises:
        ModelError: The model is not available, gated, unknown or has no safetensors.
        ResourceError: There is not enough disk space.
    """
    return _cached_embedder(hub_id) or _download(hub_id, None, hub.EMBEDDER, report)


def fetch_config(hub_id: str, revision: str | None = None) -> Path:
    """Return the folder with a hub model's config.json in the hub's cache; download only that file if needed.

    Raises:
        ModelError: The model is not available; the remedy lists available models.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(hub_id, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        _require_online(hub_id)
        hub.model_info(hub_id, revision)  # fails at once, whereas the download retries many times
        return Path(hf_hub_download(hub_id, "config.json", revision=revision)).parent
    except AssistantBuilderError:
        raise
    except Exception as error:  # see hub.py: the client's errors differ between its releases
        raise _explained(error, hub_id, revision) from error


def _require_online(hub_id: str) -> None:
    if hub.offline():
        raise ModelError(
            m("{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE is set", hub_id=hub_id),
            remedy=m(
                "Unset HF_HUB_OFFLINE. {available_models_sentence}",
                available_models_sentence=available_models_sentence(),
            ),
        )


def _download(hub_id: str, revision: str | None, files: hub.Files, report: Report) -> Path:
    _require_online(hub_id)
    report(0, 1, m("Looking up {hub_id}", hub_id=hub_id))
    try:
        info = hub.model_info(hub_id, revision)
        listed = (file for file in info.siblings or [] if files.includes(file.rfilename))
        sizes = {file.rfilename: file.size or 0 for file in listed}
        if not any(name.endswith(".safetensors") for name in sizes):
            raise ModelError(
                m("{hub_id} has no safetensors weights on the hub", hub_id=hub_id),
                remedy=m(
                    "Choose a model with safetensors; pickled and GGUF weights are not accepted"
                ),
            )
        _check_disk(hub_id, sizes)
        folder = hub.download(hub_id, revision, sizes, files, report)
        damaged = hub.damaged_files(folder, info, files)
        if damaged:
            for path in (folder / name for name in damaged):  # so that they are downloaded again
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            raise ModelError(
                m(
                    "{damaged} of {hub_id} was damaged during the download and was removed",
                    damaged=", ".join(damaged),
                    hub_id=hub_id,
                ),
                remedy=m(
                    "Run again to repeat the download. If this happens again, a proxy between this computer and the "
                    "hub may change the files"
                ),
            )
    except AssistantBuilderError:
        raise
    except Exception as error:  # see hub.py: the client's errors differ between its releases
        raise _explained(error, hub_id, revision) from error
    return folder


def _usable(hub_id: str, revision: str | None, trust_remote_code: bool) -> Path | None:
    # cached snapshot if it is complete; an unsupported model is refused after its download
    try:
        folder = hub.cached_snapshot(hub_id, revision, hub.base_files(code=trust_remote_code))
        if folder is not None:
            check_folder(folder, trust_remote_code=trust_remote_code)
    except ModelError:
        if hub.offline():
            raise
        return None
    except ValueError as error:
        raise ModelError(
            m(
                "{hub_id!r} is not a valid hub id: {error_summary}",
                hub_id=hub_id,
                error_summary=hub.error_summary(error),
            ),
            remedy=available_models_sentence(),
        ) from error
    return folder


def _check_disk(hub_id: str, sizes: dict[str, int]) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    remedy = "Free disk space, or set HF_HOME to another disk"
    require_disk_space(cache, sum(sizes.values()), hub_id, remedy)


def _explained(error: Exception, hub_id: str, revision: str | None) -> AssistantBuilderError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return ModelError(
            m("{hub_id} is gated: its terms must be accepted before the download", hub_id=hub_id),
            remedy=m(
                "Accept them on the model's page, then log in with 'hf auth login'. {available_models_sentence}",
                available_models_sentence=available_models_sentence(),
            ),
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(
            m("{hub_id} has no revision {revision!r}", hub_id=hub_id, revision=revision),
            remedy=m("Leave {model.revision} empty, or correct it"),
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            m(
                "there is no model {hub_id} on the hub (or it is private), and no folder of that name",
                hub_id=hub_id,
            ),
            remedy=m(
                "Check the spelling, or log in with 'hf auth login'. {available_models_sentence}",
                available_models_sentence=available_models_sentence(),
            ),
        )
    if isinstance(error, HfHubHTTPError):
        return ModelError(
            m(
                "the hub refused {hub_id}: {error_summary}",
                hub_id=hub_id,
                error_summary=hub.error_summary(error),
            ),
            remedy=available_models_sentence(),
        )
    return ModelError(
        m(
            "the model hub cannot be reached for {hub_id} ({error_summary})",
            hub_id=hub_id,
            error_summary=hub.error_summary(error),
        ),
        remedy=m(
            "Check the network connection, or use a local model. {available_models_sentence}",
            available_models_sentence=available_models_sentence(),
        ),
    )


def local_model_folder(model: ModelConfig) -> Path | None:
    """Return the folder of a base model; None if it is not on this machine."""
    try:
        ref = resolve(model.base, trust_remote_code=allows_code(model))
        if ref.kind == "bundled":
            return bundled.BASE.folder if bundled.BASE.is_ready() else None
        if ref.hub_id is not None:
            files = hub.base_files(code=allows_code(model))
            return hub.cached_snapshot(ref.hub_id, model.revision, files)
        return ref.folder
    except (AssistantBuilderError, ValueError):
        return None


def download_bytes(model: ModelConfig) -> int | None:
    """Bytes to download before a model of the hub can be used; 0 if it is here, None if that is not known."""
    try:
        ref = resolve(model.base, trust_remote_code=allows_code(model))
    except AssistantBuilderError:
        return 0  # the checks before a start report it
    if ref.kind != "hub" or local_model_folder(model) is not None:
        return 0
    return None if ref.entry is None else weight_bytes(ref.entry)
