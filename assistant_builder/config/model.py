"""Settings of the base model: source, quantization and compute dtype."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from assistant_builder.config.base import BASIC, ComputeDtype, ConfigModel, RegistryName
from assistant_builder.i18n import N_, m

QUANTIZATION_REGISTRY = "assistant_builder.quantization:METHODS"
"""Location of the registry of quantization methods."""


class ModelConfig(ConfigModel):
    """The base model: source, storage of its frozen weights, and compute dtype."""

    base: str = Field(
        "smollm2-135m-instruct", min_length=1, title=N_("Base model"), json_schema_extra=BASIC
    )
    """A name from the catalog, a Hub id (owner/name), or a folder with config.json."""
    revision: str | None = Field(None, title=N_("Revision"))
    """Revision on the Hub: branch, tag or commit."""
    trust_remote_code: bool = Field(False, title=N_("Trust remote code"))
    """Request to run the Python code in the model's folder or repository. No file can grant it: use --trust-remote-code
    for one command, or the checkbox on the page for one run."""
    quant_type: Annotated[str, RegistryName(QUANTIZATION_REGISTRY, "quantizes")] = Field(
        "nf4", title=N_("Quantization")
    )
    """How the QLoRA arm's base is stored: nf4 (QLoRA paper), fp4, or int8 (LLM.int8, one byte per weight)."""
    double_quant: bool = Field(True, title=N_("Double quantization"))
    """Also quantize the quantization constants, which reduces them from 0.5 to 0.127 bits per parameter (QLoRA paper).
"""
    compute_dtype: ComputeDtype = Field("auto", title=N_("Compute dtype"))
    """Data type of the computation in both arms, independent of how weights are stored. auto: bfloat16 if the hardware
    supports it, else float16 on a GPU and float32 on a CPU."""
    allow_float32_compute: bool = Field(False, title=N_("Allow float32 compute"))
    """Permit compute_dtype=float32 on a 4-bit base, which is slower without a measurable benefit."""

    @model_validator(mode="after")
    def _check_compute_dtype(self) -> ModelConfig:
        if self.compute_dtype == "float32" and not self.allow_float32_compute:
            raise ValueError(
                m(
                    "float32 compute on a quantized base is slower and needs more memory without better quality: use "
                    "bfloat16, or set model.allow_float32_compute=true to permit it"
                )
            )
        return self
