"""Serving backend ``scripted``, a plugin: the product's server without a model, see :mod:`benchmarks.scripted_worker`.

``ASSISTANT_BUILDER_PLUGINS=benchmarks.scripted_backend assistant-builder serve NAME --backend scripted`` serves a study
with everything but its models: tokenizer, limits, queue, widget and log are those of other backends.
"""

from __future__ import annotations

from collections.abc import Callable

from assistant_builder.chat.client import ChatWorker
from assistant_builder.child_process import python_command
from assistant_builder.config.serving import SERVING_BACKENDS, ServingBackend, ServingConfig
from assistant_builder.serving.local import serve_with
from assistant_builder.serving.registry import ModelRegistry


def serve_scripted(
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    as_json: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until interrupted; arguments as of :attr:`ServingBackend.start`."""
    slots = config.slots or 4

    def start(chosen: ModelRegistry) -> ChatWorker:
        return ChatWorker(python_command("-m", "benchmarks.scripted_worker", str(slots)))

    serve_with(start, models, config, key, slots=slots, as_json=as_json)


SERVING_BACKENDS.register(
    ServingBackend(
        name="scripted",
        label="Script",
        start=serve_scripted,
        explanation="no model: answers follow from questions",
    )
)
