"""Architectures of families without a closed form, built by transformers on the meta device without weights.

The build runs in a child process, so that the planner does not import torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assistant_builder.child_process import python_command, python_environment, without_secrets
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.remote_code import is_allowed
from assistant_builder.planning.architecture import (
    MAX_LAYERS,
    Architecture,
    Block,
    Module,
    text_part,
)

_SECONDS = 60
_ALIASES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocab_size": ("vocab_size",),
}


def probe(folder: Path) -> Architecture:
    """Return the architecture that transformers builds from a folder's config.json.

    Raises:
        ModelError: transformers does not know the architecture or cannot build it from this config.
    """
    try:
        done = subprocess.run(
            python_command("-m", "assistant_builder.planning.probe", str(folder)),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=without_secrets(python_environment()),
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            m("its architecture could not be built within {seconds} seconds", seconds=_SECONDS),
            where=str(folder),
            remedy=m("Choose a model from the catalog"),
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            m("transformers cannot build this architecture: {reason}", reason=reason),
            where=str(folder / "config.json"),
            remedy=m("Correct config.json, or choose another model"),
        )
    record = json.loads(done.stdout.splitlines()[-1])
    return Architecture(
        record["model_type"],
        tuple(Module(**module) for module in record["modules"]),
        tuple(Block(**block) for block in record["blocks"]),
        record["vocabulary"],
        record["context"],
        known=False,
    )


def main() -> None:
    """Print the architecture of the folder in ``sys.argv`` as one line of JSON."""
    from assistant_builder.child_process import configure_libraries

    configure_libraries()
    try:
        print(json.dumps(_record(Path(sys.argv[1]))))
    except Exception as error:  # the model's code may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SystemExit(lines[0] if lines else type(error).__name__) from error


def _record(folder: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = is_allowed(str(folder.absolute()))
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    part = text_part(config.to_dict())
    values = {name: _first(part, *names) for name, names in _ALIASES.items()}
    if values["layers"] > MAX_LAYERS:
        raise ValueError(f"{values['layers']} layers are more than any model has")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    head = model.get_output_embeddings()
    seen: set[int] = set()
    records = (_module(name, layer, layer is head, seen) for name, layer in model.named_modules())
    modules = [record for record in records if record]
    missing = [name for name in ("hidden_size", "layers", "vocab_size") if not values[name]]
    if missing:
        raise ValueError(f"config.json does not contain {', '.join(missing)}")
    hidden, heads = values["hidden_size"], values["heads"] or 1
    size = _first(part, "head_dim") or hidden // heads
    block = {
        "hidden": hidden,
        "attention": heads * size,
        "key_value": (_first(part, "num_key_value_heads", "num_kv_heads") or heads) * size,
        "heads": heads,
        "intermediate": values["intermediate_size"] or 4 * hidden,
    }
    return {
        "model_type": str(config.model_type),
        "modules": modules,
        "blocks": [block] * values["layers"],
        "vocabulary": values["vocab_size"],
        "context": _first(part, "max_position_embeddings", "n_positions"),
    }


def _module(name: str, layer: Any, is_head: bool, seen: set[int]) -> dict[str, Any] | None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    own = dict(layer.named_parameters(recurse=False))
    weight = own.pop("weight", None)
    rest = sum(value.numel() for value in own.values() if id(value) not in seen)
    seen.update(map(id, own.values()))
    if weight is None:
        kind = "experts" if "expert" in name else "norm"
        return {"name": name, "kind": kind, "outputs": rest} if rest else None
    tied = id(weight) in seen
    seen.add(id(weight))
    kind = "norm"
    if is_head:
        kind = "head"
    elif type(layer) is nn.Linear or isinstance(layer, Conv1D):
        kind = "linear"
    elif isinstance(layer, nn.Embedding):
        kind = "embedding"
    outputs = weight.shape[-1 if isinstance(layer, Conv1D) else 0]
    sizes = {"outputs": outputs, "inputs": weight.numel() // outputs, "bias": rest}
    return {"name": name, "kind": kind, **sizes, "tied": tied}


def _first(config: Mapping[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 0)


if __name__ == "__main__":
    main()
