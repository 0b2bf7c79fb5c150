"""Fine-tune a domain assistant with QLoRA and with 16-bit LoRA, and measure what 4-bit quantization costs.

The telemetry of libraries is switched off here, before any of them is imported, and in child processes. Variables that
the user has set are not changed.
"""

import os

__version__ = "0.2.0"

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
