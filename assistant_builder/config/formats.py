"""Settings of the GGUF files that a study writes and scores."""

from __future__ import annotations

from reprlib import repr as shortened
from typing import Any, Literal

from pydantic import Field, field_validator

from assistant_builder.config.base import ConfigModel
from assistant_builder.i18n import N_, m
from assistant_builder.quantization.gguf_types import GGUF_TYPES


class FormatsConfig(ConfigModel):
    """Files for llama.cpp and Ollama."""

    types: list[str] = Field(
        default_factory=lambda: ["Q8_0", "Q4_0"],
        title=N_("GGUF types"),
        description=N_(
            "Types of the GGUF files of each assistant that are written and scored after the evaluation, "
            "so that the report can say which is no worse. Empty ([]): none. Needs the extra gguf; without it nothing "
            "is written."
        ),
    )

    arms: Literal["auto", "all"] = Field(
        "auto",
        title=N_("Assistants with GGUF files"),
        description=N_(
            "auto: the 16-bit assistant, because merged models have the same size whichever adapter is in them, and "
            "assistants that are trained for a file. all: every assistant, which takes twice as long."
        ),
    )
    importance: Literal["auto", "on", "off"] = Field(
        "auto",
        title=N_("Importance matrix"),
        description=N_(
            "Choose the block scales of Q5_1, Q4_1 and Q4_0 by how large the activations of each column are on "
            "training rows. Other types are written without. auto: for assistants that look facts up; it "
            "makes the files of those that answer from memory worse."
        ),
    )

    @field_validator("importance", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """``true`` and ``false`` as well, which earlier versions wrote."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("types", mode="before")
    @classmethod
    def _sort(cls, value: Any) -> list[str]:
        allowed = (
            f"it should be a list of {', '.join(GGUF_TYPES)}, each at most once, or [] for none"
        )
        if not isinstance(value, list):
            raise ValueError(allowed)
        unknown = [name for name in value if not isinstance(name, str) or name not in GGUF_TYPES]
        if unknown:
            raise ValueError(
                m(
                    "{shortened} is no type of a GGUF file; {allowed}",
                    shortened=shortened(unknown[0]),
                    allowed=allowed,
                )
            )
        twice = next((name for name in value if value.count(name) > 1), None)
        if twice is not None:
            raise ValueError(m("{twice} occurs twice; {allowed}", twice=twice, allowed=allowed))
        return [name for name in GGUF_TYPES if name in value]
