"""A base model with Python code that leaves a mark when it is run."""

import json
from pathlib import Path

_MARK = """\
with open({mark!r}, "a") as file:
    file.write(__name__.rpartition(".")[2] + "\\n")
"""
_CONFIGURATION = """
from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = {kind!r}
"""
_MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def with_own_code(folder: Path, kind: str = "own_llama") -> Path:
    """Add Python code to the folder of a Llama model.

    Args:
        folder: Its folder; a config.json is written where there is none.
        kind: Its ``model_type``: with ``llama``, which transformers has, the code is run only where it is trusted;
            any other needs it.

    Returns:
        The file that the code writes to.
    """
    mark = folder.with_name(f"{folder.name}.ran")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    classes = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    path.write_text(
        json.dumps(
            {**config, "model_type": kind, "architectures": ["OwnForCausalLM"], "auto_map": classes}
        ),
        encoding="utf-8",
    )
    head = _MARK.format(mark=str(mark))
    (folder / "configuration_own.py").write_text(
        head + _CONFIGURATION.format(kind=kind), encoding="utf-8"
    )
    (folder / "modeling_own.py").write_text(head + _MODELING, encoding="utf-8")
    return mark
