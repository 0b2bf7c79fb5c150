"""Checks of a base model's folder, and the hash that identifies its content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder import atomic_io, study
from assistant_builder.errors import ModelError, StudyError
from assistant_builder.i18n import m

# files that affect the output of a model
_IDENTITY = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.py")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# multimodal model types that AutoModelForCausalLM of transformers loads
_WRAPPERS = {"gemma3", "gemma3n", "gemma4", "gemma4_unified", "llama4", "qwen3_5", "qwen3_5_moe"}
UNKNOWN_LENGTH = 2048
"""Assumed context length if the config does not contain it; chat and vLLM assume the same."""
ALLOW_CODE = m(
    "allow it for one run: give --trust-remote-code to the command, or tick it on the page's Train tab"
)
"""Instruction for the user to allow a model's own Python code."""
_SHARD = re.compile(r"[^/\\\0:]+\.safetensors")
_LONGEST_SHOWN = 200
_ELSEWHERE = m("Choose a causal language model with safetensors weights")


def existing_path(text: str) -> Path | None:
    """The file or folder of this computer that a text of any length names; None if there is none."""
    # unlike Path.expanduser() and Path.exists(), these functions raise for no name
    path = os.path.expanduser(text)
    return Path(path) if text and os.path.exists(path) else None


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Check that a folder contains a base model that both arms can train, and return its config.json.

    Raises:
        ModelError: config.json is missing or damaged; the model is not a causal language model, needs its own code
            without ``trust_remote_code``, is already quantized or has only pickled weights; or weight files or
            tokenizer.json are missing.
    """
    config = read_config(folder)
    _check_plain(folder)
    check_architecture(config, folder)
    if config.get("quantization_config") is not None:
        method = config["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise ModelError(
            m(
                "the weights are already quantized ({shortened}), so there is no 16-bit base to compare with",
                shortened=_shortened(method),
            ),
            where=str(folder),
            remedy=m("Choose the original model with 16-bit weights"),
        )
    if needs_own_code(config) and not trust_remote_code:
        raise ModelError(
            m(
                "the model needs its own Python code ({shortened})",
                shortened=_shortened(config["auto_map"]),
            ),
            where=str(folder),
            remedy=m(
                "Choose another model; or review that code, then {allow_code}",
                allow_code=ALLOW_CODE,
            ),
        )
    _check_weights(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            m("tokenizer.json is missing"),
            where=str(folder),
            remedy=m(
                "Create it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            ),
        )
    return config


def _check_plain(folder: Path) -> None:
    """Check that what is read is no pipe or device, which would wait; the hub's cache consists of links to files."""
    for path in sorted({path for pattern in _IDENTITY for path in folder.glob(pattern)}):
        if path.exists() and not path.is_file():
            raise ModelError(
                m("this is not a regular file"),
                where=str(path),
                remedy=m("Copy the model again"),
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        ModelError: It is missing or damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                m("this is an adapter, not a base model"),
                where=str(folder),
                remedy=m("Use the base model that the adapter was trained on"),
            )
        raise ModelError(
            m("there is no config.json"),
            where=str(folder),
            remedy=m(
                "Use a folder written by save_pretrained(): config.json, *.safetensors, tokenizer"
            ),
        )
    return read_json_object(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model.

    Raises:
        ModelError: It cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(atomic_io.bounded_bytes(path))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(
            m("{name} cannot be read: {error}", name=path.name, error=error),
            where=str(path),
            remedy=m("Copy the model again"),
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            m("{name} is not a JSON object", name=path.name),
            where=str(path),
            remedy=m("Copy the model again"),
        )
    return content


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def max_pair_tokens(folder: Path, answer: int) -> int | None:
    """Return the longest pair in tokens that leaves context for an answer; None if the config has no context length.

    Raises:
        ModelError: config.json is missing or damaged.
    """
    config = read_config(folder)
    inner = config.get("text_config")
    sizes = inner if isinstance(inner, dict) else config
    context = sizes.get("max_position_embeddings") or sizes.get("n_positions")
    return max(context - answer, context // 2) if isinstance(context, int) and context > 1 else None


def context_length(folder: Path) -> int:
    """Return the context length of a base model: the smaller one of config.json and tokenizer_config.json.

    vLLM does not accept more than either (``vllm/config/model.py``, ``_get_and_verify_max_len``).

    Raises:
        ModelError: config.json is missing or damaged.
        StudyError: tokenizer_config.json is damaged.
    """
    limit = max_pair_tokens(folder, 0) or UNKNOWN_LENGTH
    path = folder / "tokenizer_config.json"
    settings = atomic_io.read_json(path, Any) if path.is_file() else None
    maximum = settings.get("model_max_length") if isinstance(settings, dict) else None
    return min(limit, maximum) if type(maximum) is int and maximum > 0 else limit


def check_architecture(config: dict[str, Any], folder: Path) -> None:
    """Check that a config describes a causal language model.

    Raises:
        ModelError: It does not.
    """
    listed, model_type = config.get("architectures") or [], config.get("model_type") or ""
    if not isinstance(listed, list) or not isinstance(model_type, str):
        raise ModelError(
            m(
                "architectures={shortened!r} is not a list, or model_type={shortened_2!r} is not a string",
                shortened=_shortened(listed),
                shortened_2=_shortened(model_type),
            ),
            where=str(folder / "config.json"),
            remedy=m("Copy the model again"),
        )
    names = [str(name) for name in listed]
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    if not causal and model_type not in _WRAPPERS:
        kind = _shortened(", ".join(names) or model_type or "unnamed")
        raise ModelError(
            m("the model is not a causal language model (architecture: {kind})", kind=kind),
            where=str(folder),
            remedy=_ELSEWHERE,
        )


def needs_own_code(config: dict[str, Any]) -> bool:
    """Return whether the model needs the code of ``auto_map`` because transformers lacks the architecture.

    The folders of the installed package are checked, because importing its registry imports torch.
    """
    if "auto_map" not in config:
        return False
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return True
    model_type = str(config.get("model_type", "")).replace("-", "_")
    known = (Path(package.origin).parent / "models" / model_type).is_dir()
    return not model_type.isidentifier() or not known


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json_object(index).get("weight_map")
        shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not shards or not all(isinstance(name, str) for name in shards):
            raise ModelError(
                m("the index of the weights is damaged"),
                where=str(index),
                remedy=m("Copy the model again"),
            )
        shards = sorted(set(shards))
        if elsewhere := [
            name for name in shards if not _SHARD.fullmatch(name)
        ]:  # transformers follows ../ and absolute paths
            raise ModelError(
                m(
                    "the index of the weights refers to {shortened!r}, which is not a safetensors file of this folder",
                    shortened=_shortened(elsewhere[0]),
                ),
                where=str(index),
                remedy=m("Copy the model again from a source that you trust"),
            )
        if missing := [name for name in shards if not (folder / name).is_file()]:
            raise ModelError(
                m(
                    "{missing} of {shards} weight files are missing, the first is {missing_2}",
                    missing=len(missing),
                    shards=len(shards),
                    missing_2=missing[0],
                ),
                where=str(folder),
                remedy=m("Copy the model again"),
            )
        return
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLED for path in folder.glob(pattern)):
        raise ModelError(
            m(
                "the weights are pickled files, which can run code when they are loaded; only safetensors are accepted"
            ),
            where=str(folder),
            remedy=m(
                "If you trust them, convert them once: AutoModelForCausalLM.from_pretrained(FOLDER, "
                "use_safetensors=False).save_pretrained(NEW_FOLDER), and the same with AutoTokenizer"
            ),
        )
    if any(folder.glob("*.gguf")):
        raise ModelError(
            m("the weights are GGUF files"),
            where=str(folder),
            remedy=m("Choose the original model with safetensors weights"),
        )
    raise ModelError(
        m("there are no weights (*.safetensors)"), where=str(folder), remedy=_ELSEWHERE
    )


def base_model_hash(folder: Path) -> str:
    """Return a SHA-256 in hex over names and content of config, weights, tokenizer and chat template."""
    paths = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    for name, sha256 in file_hashes(folder, sorted(path.name for path in paths)).items():
        digest.update(f"{name}\0{sha256}\n".encode())
    return digest.hexdigest()


def file_hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of files of a model's folder in the order of ``names``; OSError if one cannot be read.

    Hashes are cached in ``models/.hashes/`` of the home folder, if writable, until size or times of a file change.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    sidecar = study.home() / "models" / ".hashes" / f"{name}.json"
    try:
        known: dict[str, Any] = dict(atomic_io.read_json(sidecar)["hashes"])
    except (OSError, StudyError, KeyError, TypeError, ValueError):
        known = {}
    hashes: dict[str, list[Any]] = {}
    for name in names:
        stat = (folder / name).stat()
        # mtime can be set by users, ctime cannot
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        entry: Any = known.get(name)
        same = isinstance(entry, list) and entry[:-1] == stamp
        hashes[name] = entry if same else [*stamp, atomic_io.file_hash(folder / name)]
    content = {"folder": str(folder.resolve()), "hashes": {**known, **hashes}}
    if content["hashes"] != known:
        with contextlib.suppress(OSError):
            atomic_io.write_json(sidecar, content)
    return {name: sha256 for name, (*_, sha256) in hashes.items()}
