"""Folders of base models whose template or tokenizer was made to exhaust whoever uses it; no weights to speak of."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import normalizers

from tests.models.test_hostile_models import TEMPLATE, prompter

LONG_STRING = "{% if messages %}{{ 'x' * 700000000 }}{% endif %}" + TEMPLATE
"""700 MB of text."""
ENDLESS = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}" + TEMPLATE
FAILING = "{{ raise_exception('x' * 400000) }}"


def multiplying() -> object:
    """A normalizer that makes a million letters of each ``q``."""
    return normalizers.Sequence([normalizers.Replace("q", "r" * 1000), normalizers.Replace("r", "s" * 1000)])


def hostile_base(folder: Path, *, template: str = TEMPLATE, normalizer: object = None) -> Path:
    """A base model that passes every check of its folder.

    Args:
        folder: Where to.
        template: Its chat template.
        normalizer: Of its tokenizer.
    """
    prompter(template=template, normalizer=normalizer).tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 259, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 2048,
    }), encoding="utf-8")
    write_weights(folder / "model.safetensors")
    return folder


def write_weights(path: Path) -> None:
    """A safetensors file that holds one number."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
