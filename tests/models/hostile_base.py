"""Folders of base models whose template or tokenizer was made to exhaust whoever uses it; no weights to speak of."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from tokenizers import normalizers

from tests.models.test_hostile_models import TEMPLATE, prompter

LONG_STRING = "{% if messages %}{{ 'x' * 700000000 }}{% endif %}" + TEMPLATE
"""700 MB of text."""
ENDLESS = (
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}" + TEMPLATE
)
FAILING = "{{ raise_exception('x' * 400000) }}"


def multiplying() -> object:
    """A normalizer that makes a million letters of each ``q``."""
    return normalizers.Sequence(
        [normalizers.Replace("q", "r" * 1000), normalizers.Replace("r", "s" * 1000)]
    )


def hostile_base(folder: Path, *, template: str = TEMPLATE, normalizer: object = None) -> Path:
    """A base model that passes every check of its folder.

    Args:
        folder: Where to.
        template: Its chat template.
        normalizer: Of its tokenizer.
    """
    prompter(template=template, normalizer=normalizer).tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": 259,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 2048,
            }
        ),
        encoding="utf-8",
    )
    write_weights(folder / "model.safetensors")
    return folder


def write_weights(path: Path) -> None:
    """A safetensors file that holds one number."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def watched(code: str, *words: str, most: int = 600_000_000, seconds: float = 120.0) -> Any:
    """Run a program that prints one JSON document, and end it as soon as its own memory grows beyond a limit.

    Args:
        code: The program.
        words: Its arguments.
        most: Bytes of its resident set, that of its child processes not counted.
        seconds: How long it may take.
    """
    end = time.monotonic() + seconds
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            while process.poll() is None:
                try:
                    resident = psutil.Process(process.pid).memory_info().rss
                except psutil.Error:
                    continue
                assert resident < most, f"the program grew to {resident / 1e6:.0f} MB"
                assert time.monotonic() < end, f"the program took longer than {seconds:g} seconds"
                time.sleep(0.02)
            assert process.stdout is not None
            said = process.stdout.read()
        finally:
            process.kill()
    assert process.returncode == 0
    return json.loads(said)
