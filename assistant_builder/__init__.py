"""Fine-tune a domain assistant with QLoRA and with 16-bit LoRA, and measure what 4-bit quantization costs.

The names of ``__all__`` are those of :mod:`assistant_builder.api`, which is imported with the first use of one.

The telemetry of libraries is switched off here, before any of them is imported, and in child processes. Variables that
the user has set are not changed.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assistant_builder.api import (
        Study,
        compare,
        example,
        judge,
        open,
        run,
        studies,
    )
    from assistant_builder.api_types import Answer, Server, Source

__version__ = "0.2.0"
__all__ = [
    "Answer",
    "Server",
    "Source",
    "Study",
    "compare",
    "example",
    "judge",
    "open",
    "run",
    "studies",
]

TELEMETRY_SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio: start, launch, errors, and the check for new versions
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, gradio's client, trl's trainers, transformers' user agent
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate: names of loaded datasets
    "DO_NOT_TRACK": "1",  # libraries that respect it
    "WANDB_MODE": "disabled",  # transformers and lm-eval report to it if it is installed
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in TELEMETRY_SWITCHES.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "api_types" if name in ("Answer", "Server", "Source") else "api"
        return getattr(importlib.import_module(f"assistant_builder.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
