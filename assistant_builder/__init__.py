"""Fine-tune a domain assistant with QLoRA and a paired float16 LoRA baseline, and measure what 4-bit costs."""

from assistant_builder import telemetry

__version__ = "0.2.0"

telemetry.switch_off()
