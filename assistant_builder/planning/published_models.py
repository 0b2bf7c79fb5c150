"""Models that people quote figures for: with their published parameter counts, so that every figure can be checked.

They can be planned by name like the catalog's. Counts are those of the models' published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.arms import QLORA, TWINS
from assistant_builder.models.catalog import sizes


@dataclass(frozen=True)
class PublishedModel:
    """One model.

    Attributes:
        name: What ``plan`` takes.
        hub_id: Its repository on the model hub; empty for the first LLaMA, which was never published there.
        parameters: Published number of parameters, exact.
        config: The values of its config.json that decide sizes.
    """

    name: str
    hub_id: str
    parameters: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class MemoryClaim:
    """A size of model that is said to fit a size of memory, and which arms of a study that holds for.

    Attributes:
        size: As people say it.
        model: A reference of that size.
        memory: As ``plan --memory`` takes it.
        arms: The arms that fit with default settings: QLoRA and its 16-bit twin, or QLoRA alone.
    """

    size: str
    model: str
    memory: str
    arms: tuple[str, ...]


_LIST = (
    PublishedModel("llama-7b", "", 6_738_415_616, sizes("llama", 32_000, 4096, 11_008, 32, 32, 32, context=2048)),
    PublishedModel("llama-13b", "", 13_015_864_320, sizes("llama", 32_000, 5120, 13_824, 40, 40, 40, context=2048)),
    PublishedModel("llama-33b", "", 32_528_943_616, sizes("llama", 32_000, 6656, 17_920, 60, 52, 52, context=2048)),
    PublishedModel("llama-65b", "", 65_285_660_672, sizes("llama", 32_000, 8192, 22_016, 80, 64, 64, context=2048)),
    PublishedModel("llama-2-7b", "meta-llama/Llama-2-7b-hf", 6_738_415_616,
              sizes("llama", 32_000, 4096, 11_008, 32, 32, 32, context=4096)),
    PublishedModel("llama-2-13b", "meta-llama/Llama-2-13b-hf", 13_015_864_320,
              sizes("llama", 32_000, 5120, 13_824, 40, 40, 40, context=4096)),
    PublishedModel("llama-2-70b", "meta-llama/Llama-2-70b-hf", 68_976_648_192,
              sizes("llama", 32_000, 8192, 28_672, 80, 64, 8, context=4096)),
    PublishedModel("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 8_030_261_248,
              sizes("llama", 128_256, 4096, 14_336, 32, 32, 8, context=8192)),
    PublishedModel("llama-3-70b", "meta-llama/Meta-Llama-3-70B", 70_553_706_496,
              sizes("llama", 128_256, 8192, 28_672, 80, 64, 8, context=8192)),
    PublishedModel("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384,
              sizes("llama", 32_000, 2048, 5632, 22, 32, 4, context=2048)),
    PublishedModel("mistral-7b", "mistralai/Mistral-7B-v0.1", 7_241_732_096,
              sizes("mistral", 32_000, 4096, 14_336, 32, 32, 8, context=32_768)),
    PublishedModel("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", 46_702_792_704,
              sizes("mixtral", 32_000, 4096, 14_336, 32, 32, 8, context=32_768, num_local_experts=8,
                    num_experts_per_tok=2)),
    PublishedModel("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", 494_032_768,
              sizes("qwen2", 151_936, 896, 4864, 24, 14, 2, tied=True, context=32_768)),
    PublishedModel("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7_615_616_512,
              sizes("qwen2", 152_064, 3584, 18_944, 28, 28, 4, context=32_768)),
    PublishedModel("qwen2.5-72b", "Qwen/Qwen2.5-72B-Instruct", 72_706_203_648,
              sizes("qwen2", 152_064, 8192, 29_568, 80, 64, 8, context=32_768)),
    PublishedModel("qwen3-32b", "Qwen/Qwen3-32B", 32_762_123_264,
              sizes("qwen3", 151_936, 5120, 25_600, 64, 64, 8, head=128, context=40_960)),
    PublishedModel("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", 30_532_122_624,
              sizes("qwen3_moe", 151_936, 2048, 6144, 48, 32, 4, head=128, context=40_960, num_experts=128,
                    num_experts_per_tok=8, moe_intermediate_size=768, decoder_sparse_step=1)),
    PublishedModel("gemma-2-9b-it", "google/gemma-2-9b-it", 9_241_705_984,
              sizes("gemma2", 256_000, 3584, 14_336, 42, 16, 8, tied=True, head=256, context=8192)),
    PublishedModel("gemma-2-27b-it", "google/gemma-2-27b-it", 27_227_128_320,
              sizes("gemma2", 256_000, 4608, 36_864, 46, 32, 16, tied=True, head=128, context=8192)),
    PublishedModel("phi-3-mini", "microsoft/Phi-3-mini-4k-instruct", 3_821_079_552,
              sizes("phi3", 32_064, 3072, 8192, 32, 32, 32, context=4096)),
)  # fmt: skip
PUBLISHED_MODELS: dict[str, PublishedModel] = {entry.name: entry for entry in _LIST}
"""Every reference by its name."""
MEMORY_CLAIMS = (
    MemoryClaim("7B", "llama-2-7b", "24GB", TWINS),
    MemoryClaim("8B", "llama-3-8b", "24GB", TWINS),
    MemoryClaim("13B", "llama-2-13b", "48GB", TWINS),
    MemoryClaim("70B", "llama-3-70b", "80GB", (QLORA.name,)),
)
"""What README.md promises; a test holds the planner to it."""
