"""Load the architecture of a model by name: from the catalog, the published models, a folder, or the hub's config.json.

The published models are those for which papers and guides quote figures, so that each figure can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.catalog import CATALOG, CatalogEntry, resolve, sizes
from assistant_builder.models.checkpoint_dir import check_architecture, read_config
from assistant_builder.models.download import fetch_config
from assistant_builder.planning.architecture import Architecture, build, is_known
from assistant_builder.planning.probe import probe

_LIST = (
    CatalogEntry("llama-7b", "", 6_738_415_616, "", 2048, "", sizes("llama", 32_000, 4096, 11_008, 32, 32, 32)),
    CatalogEntry("llama-13b", "", 13_015_864_320, "", 2048, "", sizes("llama", 32_000, 5120, 13_824, 40, 40, 40)),
    CatalogEntry("llama-33b", "", 32_528_943_616, "", 2048, "", sizes("llama", 32_000, 6656, 17_920, 60, 52, 52)),
    CatalogEntry("llama-65b", "", 65_285_660_672, "", 2048, "", sizes("llama", 32_000, 8192, 22_016, 80, 64, 64)),
    CatalogEntry("llama-2-7b", "meta-llama/Llama-2-7b-hf", 6_738_415_616, "", 4096, "",
                 sizes("llama", 32_000, 4096, 11_008, 32, 32, 32)),
    CatalogEntry("llama-2-13b", "meta-llama/Llama-2-13b-hf", 13_015_864_320, "", 4096, "",
                 sizes("llama", 32_000, 5120, 13_824, 40, 40, 40)),
    CatalogEntry("llama-2-70b", "meta-llama/Llama-2-70b-hf", 68_976_648_192, "", 4096, "",
                 sizes("llama", 32_000, 8192, 28_672, 80, 64, 8)),
    CatalogEntry("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 8_030_261_248, "", 8192, "",
                 sizes("llama", 128_256, 4096, 14_336, 32, 32, 8)),
    CatalogEntry("llama-3-70b", "meta-llama/Meta-Llama-3-70B", 70_553_706_496, "", 8192, "",
                 sizes("llama", 128_256, 8192, 28_672, 80, 64, 8)),
    CatalogEntry("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384, "", 2048, "",
                 sizes("llama", 32_000, 2048, 5632, 22, 32, 4)),
    CatalogEntry("mistral-7b", "mistralai/Mistral-7B-v0.1", 7_241_732_096, "", 32_768, "",
                 sizes("mistral", 32_000, 4096, 14_336, 32, 32, 8)),
    CatalogEntry("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, "", 32_768, "",
                 sizes("mixtral", 32_000, 4096, 14_336, 32, 32, 8, num_local_experts=8, num_experts_per_tok=2)),
    CatalogEntry("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, "", 32_768, "",
                 sizes("qwen2", 151_936, 896, 4864, 24, 14, 2, tied=True)),
    CatalogEntry("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, "", 32_768, "",
                 sizes("qwen2", 152_064, 3584, 18_944, 28, 28, 4)),
    CatalogEntry("qwen2.5-72b", "Qwen/Qwen2.5-72B-Instruct", 72_706_203_648, "", 32_768, "",
                 sizes("qwen2", 152_064, 8192, 29_568, 80, 64, 8)),
    CatalogEntry("qwen3-32b", "Qwen/Qwen3-32B", 32_762_123_264, "", 40_960, "",
                 sizes("qwen3", 151_936, 5120, 25_600, 64, 64, 8, head=128)),
    CatalogEntry("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", 30_532_122_624, "", 40_960, "",
                 sizes("qwen3_moe", 151_936, 2048, 6144, 48, 32, 4, head=128, num_experts=128,
                       num_experts_per_tok=8, moe_intermediate_size=768, decoder_sparse_step=1)),
    CatalogEntry("gemma-2-9b-it", "google/gemma-2-9b-it", 9_241_705_984, "", 8192, "",
                 sizes("gemma2", 256_000, 3584, 14_336, 42, 16, 8, tied=True, head=256)),
    CatalogEntry("gemma-2-27b-it", "google/gemma-2-27b-it", 27_227_128_320, "", 8192, "",
                 sizes("gemma2", 256_000, 4608, 36_864, 46, 32, 16, tied=True, head=128)),
    CatalogEntry("phi-3-mini", "microsoft/Phi-3-mini-4k-instruct", 3_821_079_552, "", 4096, "",
                 sizes("phi3", 32_064, 3072, 8192, 32, 32, 32)),
)  # fmt: skip
PUBLISHED_MODELS = {entry.name: entry for entry in _LIST}


def load_architecture(model: str, revision: str | None = None) -> tuple[str, Architecture]:
    """Load name and architecture of a model of the catalog or :data:`PUBLISHED_MODELS`, a hub id or a folder.

    Raises:
        ModelError: The model is unknown or not reachable, or its config is invalid.
    """
    known = _shipped(model) if revision is None else None
    if known is not None:
        return known[0], build(known[1])
    path = Path(model.strip()).expanduser()
    if (path / "config.json").is_file():
        folder, name = path, path.resolve().name
    else:
        ref = resolve(model)
        folder = ref.folder or fetch_config(str(ref.hub_id), revision)
        name = ref.name
    return name, architecture_from_folder(folder)


def architecture_from_folder(folder: Path) -> Architecture:
    """Load the architecture from a folder's config.json.

    Raises:
        ModelError: It is missing, damaged, or does not describe a causal language model.
    """
    file = folder / "config.json"
    return _from_file(str(folder.resolve()), file_hash(file) if file.is_file() else "")


@lru_cache(maxsize=32)
def _from_file(folder: str, file_sha256: str) -> Architecture:
    # the file's hash is part of the cache key, so that the slow probe runs once per config
    config = read_config(Path(folder))
    check_architecture(config, Path(folder))
    where = str(Path(folder) / "config.json")
    try:
        if is_known(config):
            return build(config)
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(
            m("a value has the wrong type: {error}", error=str(error)[:200]),
            where=where,
            remedy=m("Copy config.json again from its source"),
        ) from error
    return probe(Path(folder))


def _shipped(model: str) -> tuple[str, Mapping[str, Any]] | None:
    # name and config of a model whose sizes are part of this package
    text = model.strip().casefold()
    for entry in (*CATALOG.values(), *PUBLISHED_MODELS.values()):
        if text in (entry.name, entry.hub_id.casefold() or entry.name):
            return entry.name, {"max_position_embeddings": entry.context_length, **entry.config}
    return None
