"""Settings of the GGUF files that a study writes and scores."""

from __future__ import annotations

from pydantic import Field, field_validator

from assistant_builder.config.base import ConfigModel
from assistant_builder.quantization.ggml import GGUF_TYPES


class FormatsConfig(ConfigModel):
    """Files for llama.cpp and Ollama."""

    types: list[str] = Field(
        default_factory=lambda: ["Q8_0", "Q4_0"], title="GGUF types",
        description="Types of the GGUF files of each assistant that are written and scored after the evaluation, so "
        f"that the report can say which is no worse: {', '.join(GGUF_TYPES)}. Empty ([]): none. Needs the extra gguf; "
        "without it nothing is written.",
    )

    @field_validator("types")
    @classmethod
    def _sort(cls, value: list[str]) -> list[str]:
        """Each type once, largest first."""
        unknown = [name for name in value if name not in GGUF_TYPES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(GGUF_TYPES)}")
        return [name for name in GGUF_TYPES if name in value]
