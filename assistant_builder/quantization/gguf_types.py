"""The types of a GGUF file; :mod:`assistant_builder.quantization.gguf` writes them."""

from __future__ import annotations

from dataclasses import dataclass

from assistant_builder.quantization import k_quants


@dataclass(frozen=True)
class GgufType:
    """A type of a GGUF file."""

    name: str  # value of ``--type``
    bits: float  # bits of a weight with its block constants, in a file without exceptions
    file_type: int  # ``general.file_type`` (``llama_ftype``)

    @property
    def lossy(self) -> bool:
        """Whether weights have fewer than 16 bits."""
        return self.bits < 16

    @property
    def k_quant(self) -> bool:
        """Whether it is a K-quant, which the package gguf cannot write."""
        return self.name in k_quants.K_TYPES

    @property
    def takes_importance(self) -> bool:
        """Whether its block scales can be chosen by an importance matrix."""
        from assistant_builder.quantization.weighted_blocks import WEIGHTED_TYPES

        return self.name in WEIGHTED_TYPES or (self.k_quant and k_quants.is_installed())


GGUF_TYPES: dict[str, GgufType] = {
    each.name: each
    for each in (
        GgufType("BF16", 16, 32),
        GgufType("Q8_0", 8.5, 7),
        GgufType("Q6_K", 6.57, 18),
        GgufType("Q5_1", 6, 9),
        GgufType("Q5_K_M", 5.68, 17),
        GgufType("Q4_1", 5, 3),
        GgufType("Q4_K_M", 4.85, 15),
        GgufType("Q4_0", 4.5, 2),
        GgufType("Q3_K_M", 3.91, 12),
    )
}
"""The types of a file, largest first."""
