"""Disables the telemetry of libraries.

The environment variables are set when the package is imported, before any of the libraries, and child processes inherit
them. Variables that the user has set are not changed.
"""

from __future__ import annotations

import os

SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio: start, launch, errors, and the check for new versions
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, gradio's client, trl's trainers, transformers' user agent
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate: names of loaded datasets
    "DO_NOT_TRACK": "1",  # libraries that respect it
    "WANDB_MODE": "disabled",  # transformers and lm-eval report to it if it is installed
    "RAY_USAGE_STATS_ENABLED": "0",
}


def switch_off() -> None:
    """Set :data:`SWITCHES` unless the user has set them."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
