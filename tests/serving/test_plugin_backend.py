"""A serving backend that a module outside the product registers: in the settings, in the help, and started by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assistant_builder.registry import PLUGIN_VARIABLE
from tests.serving.test_parts import with_adapters

BACKEND = """
from assistant_builder.config.serving import SERVING_BACKENDS, ServingBackend


def start(models, config, key, *, as_json, notify):
    notify("sends everything to the moon")
    print(models.ids, config.port, key, as_json)


SERVING_BACKENDS.register(ServingBackend(
    name="moon", label="Moon", explanation="a server on the moon", start=start, requires="a rocket", streams=False,
))
"""


@pytest.fixture
def environment(tmp_path: Path, home: Path) -> dict[str, str]:
    """Environment of a process that loads the backend."""
    (tmp_path / "moon_plugin.py").write_text(BACKEND)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    return {**os.environ, PLUGIN_VARIABLE: "moon_plugin", "PYTHONPATH": path}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120
    )


def test_settings_and_help_list_it_and_the_command_starts_it(environment):
    code = (
        "import json; from assistant_builder.config.serving import ServingConfig as C; "
        "print(json.dumps([C.model_json_schema()['properties']['backend']['enum'], C(backend='moon').backend]))"
    )
    assert json.loads(run(environment, "-c", code).stdout) == [
        ["local", "llamacpp", "ray", "vllm", "moon"],
        "moon",
    ]
    output = " ".join(run(environment, "-m", "assistant_builder", "serve", "--help").stdout.split())
    assert "local|llamacpp|ray|vllm|moon" in output
    assert "moon: a server on the moon (requires a rocket); answers without streams" in output
    with_adapters("library")
    done = run(
        environment,
        "-m",
        "assistant_builder",
        "serve",
        "library:lora",
        "--backend",
        "moon",
        "--port",
        "9",
    )
    assert done.stdout.strip() == "['library-lora'] 9 None False"
    assert "sends everything to the moon" in done.stderr
