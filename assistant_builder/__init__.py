"""Fine-tune a domain assistant with QLoRA and with 16-bit LoRA, and measure what 4-bit quantization costs."""

from assistant_builder import telemetry

__version__ = "0.2.0"

telemetry.switch_off()
