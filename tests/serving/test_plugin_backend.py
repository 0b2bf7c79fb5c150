"""A serving backend that a module outside the product registers: in the settings, in the help, and started by name."""

import json

from tests.commands import command, python, with_plugin
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


def test_settings_and_help_list_it_and_the_command_starts_it(home, tmp_path):
    environment = with_plugin(tmp_path, "moon_plugin", BACKEND)
    code = (
        "import json; from assistant_builder.config.serving import ServingConfig as C; "
        "print(json.dumps([C.model_json_schema()['properties']['backend']['enum'], C(backend='moon').backend]))"
    )
    assert json.loads(python("-c", code, env=environment).stdout) == [
        ["local", "llamacpp", "ray", "vllm", "moon"],
        "moon",
    ]
    output = " ".join(command("serve --help", env=environment).stdout.split())
    assert "local|llamacpp|ray|vllm|moon" in output
    assert "moon: a server on the moon (requires a rocket); answers without streams" in output
    with_adapters("library")
    done = command("serve library:lora --backend moon --port 9", env=environment)
    assert done.stdout.strip() == "['library-lora'] 9 None False"
    assert "sends everything to the moon" in done.stderr
