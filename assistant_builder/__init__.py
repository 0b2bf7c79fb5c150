"""Fine-tune a domain assistant with QLoRA, beside its float16 LoRA twin, and measure what 4-bit cost."""

from assistant_builder import telemetry

__version__ = "0.1.0"

telemetry.switch_off()
