"""Nothing is told to anyone about what is done here. Libraries that would do so are switched off, in this one place.

The switches are environment variables, set when the package is imported: before any of the libraries is, and inherited
by every process that is started. Whoever sets one of them keeps it as it is set.
"""

from __future__ import annotations

import os

SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio: start, launch and errors; whether there is a newer version
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, gradio's client, trl's trainers, transformers' user agent
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate: which dataset was loaded
    "DO_NOT_TRACK": "1",  # whoever keeps to it
    "WANDB_MODE": "disabled",  # transformers and lm-eval report to it where it is installed
    "RAY_USAGE_STATS_ENABLED": "0",
}


def switch_off() -> None:
    """Set :data:`SWITCHES` where the user has not set them."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
