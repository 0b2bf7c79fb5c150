"""The catalog of base models, and the resolution of names in ``model.base``.

The facts come from the models' public cards and configs. Parameter counts are exact and count tied embeddings once.
Context lengths are those of the config, or the native length of the card if the config allows more. GPU sizes are
approximate and refer to the float16 arm; QLoRA alone needs about a third.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assistant_builder.errors import ModelError
from assistant_builder.i18n import N_, m
from assistant_builder.models.bundled import BASE_MODEL
from assistant_builder.models.checkpoint_dir import check_folder, existing_path
from assistant_builder.models.hub import available_models_sentence

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class CatalogEntry:
    """A base model."""

    name: str  # value of model.base
    hub_id: str
    parameters: int
    licence: str  # SPDX identifier, or the hub's name
    context_length: int  # tokens
    good_for: str
    config: Mapping[str, Any]  # values of config.json that determine sizes; a plan needs no hub
    gated: bool = False  # its terms must be accepted on the hub
    multimodal: bool = False  # its vision tower is not used here


def sizes(
    model_type: str,
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    *,
    tied: bool = False,
    head: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the values of a config.json that determine a model's sizes.

    ``tied``: head and embedding share their weight. ``head``: size of a head, by default ``hidden / heads``.
    """
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "tie_word_embeddings": tied,
        **({} if head is None else {"head_dim": head}),
        **more,
    }


_GEMMA_4B: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": sizes("gemma3_text", 262_208, 2560, 10_240, 34, 8, 4, tied=True, head=256),
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    },
}

_ENTRIES = (
    CatalogEntry(BASE_MODEL, "HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, "apache-2.0", 8_192,
                 N_("first steps and CPUs: bundled; knows little by itself"),
                 sizes("llama", 49_152, 576, 1536, 30, 9, 3, tied=True)),
    CatalogEntry("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, "apache-2.0", 8_192,
                 N_("CPUs with some patience; English"), sizes("llama", 49_152, 960, 2560, 32, 15, 5, tied=True)),
    CatalogEntry("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, "apache-2.0", 8_192,
                 N_("small GPUs; English"), sizes("llama", 49_152, 2048, 8192, 24, 32, 32, tied=True)),
    CatalogEntry("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", 3_075_098_624, "apache-2.0", 65_536,
                 N_("GPUs from 12 GB; six European languages; can reason at length"),
                 sizes("smollm3", 128_256, 2048, 11_008, 36, 16, 4, tied=True)),
    CatalogEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B", 596_049_920, "apache-2.0", 32_768,
                 N_("smallest with many languages; CPUs with patience or any GPU"),
                 sizes("qwen3", 151_936, 1024, 3072, 28, 16, 8, tied=True, head=128)),
    CatalogEntry("qwen3-1.7b", "Qwen/Qwen3-1.7B", 1_720_574_976, "apache-2.0", 32_768, N_("small GPUs; many languages"),
                 sizes("qwen3", 151_936, 2048, 6144, 28, 16, 8, tied=True, head=128)),
    CatalogEntry("qwen3-4b-instruct-2507", "Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096, "apache-2.0", 262_144,
                 N_("GPUs from 12 GB; answers directly, without reasoning first; very long inputs"),
                 sizes("qwen3", 151_936, 2560, 9728, 36, 32, 8, tied=True, head=128)),
    CatalogEntry("qwen3-8b", "Qwen/Qwen3-8B", 8_190_735_360, "apache-2.0", 32_768,
                 N_("GPUs from 24 GB; strong all-rounder, many languages"),
                 sizes("qwen3", 151_936, 4096, 12_288, 36, 32, 8, head=128)),
    CatalogEntry("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400, "llama3.2", 131_072,
                 N_("small GPUs; eight languages"), sizes("llama", 128_256, 2048, 8192, 16, 32, 8, tied=True),
                 gated=True),
    CatalogEntry("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824, "llama3.2", 131_072,
                 N_("GPUs from 12 GB; eight languages"), sizes("llama", 128_256, 3072, 8192, 28, 24, 8, tied=True),
                 gated=True),
    CatalogEntry("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, "llama3.1", 131_072,
                 N_("GPUs from 24 GB; widely used, eight languages"), sizes("llama", 128_256, 4096, 14_336, 32, 32, 8),
                 gated=True),
    CatalogEntry("llama-3.3-70b-instruct", "meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496, "llama3.3", 131_072,
                 N_("data-centre GPUs: QLoRA on one of 80 GB, the float16 twin on several"),
                 sizes("llama", 128_256, 8192, 28_672, 80, 64, 8), gated=True),
    CatalogEntry("gemma-3-270m-it", "google/gemma-3-270m-it", 268_098_176, "gemma", 32_768,
                 N_("CPUs; meant to be tuned for one task; most of it is a vocabulary for many languages"),
                 sizes("gemma3_text", 262_144, 640, 2048, 18, 4, 1, tied=True, head=256), gated=True),
    CatalogEntry("gemma-3-1b-it", "google/gemma-3-1b-it", 999_885_952, "gemma", 32_768, N_("small GPUs; text only"),
                 sizes("gemma3_text", 262_144, 1152, 6912, 26, 4, 1, tied=True, head=256), gated=True),
    CatalogEntry("gemma-3-4b-it", "google/gemma-3-4b-it", 4_300_079_472, "gemma", 131_072,
                 N_("GPUs from 12 GB; many languages; takes images too, which are not used here"), _GEMMA_4B,
                 gated=True,
                 multimodal=True),
    CatalogEntry("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552, "apache-2.0", 32_768,
                 N_("GPUs from 24 GB; much-studied, permissive licence"),
                 sizes("mistral", 32_768, 4096, 14_336, 32, 32, 8)),
    CatalogEntry("phi-4-mini-instruct", "microsoft/Phi-4-mini-instruct", 3_836_021_760, "mit", 131_072,
                 N_("GPUs from 12 GB; reasoning and mathematics for its size"),
                 sizes("phi3", 200_064, 3072, 8192, 32, 24, 8, tied=True)),
    CatalogEntry("olmo-2-1b-instruct", "allenai/OLMo-2-0425-1B-Instruct", 1_484_916_736, "apache-2.0", 4_096,
                 N_("small GPUs; fully open: training data and code are published"),
                 sizes("olmo2", 100_352, 2048, 8192, 16, 16, 16)),
    CatalogEntry("granite-3.3-2b-instruct", "ibm-granite/granite-3.3-2b-instruct", 2_533_539_840, "apache-2.0", 131_072,
                 N_("small GPUs; business text, twelve languages"),
                 sizes("granite", 49_159, 2048, 8192, 40, 32, 8, tied=True)),
)  # fmt: skip

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
"""Catalog entries by name; the first is the default and needs no hub."""


def weight_bytes(entry: CatalogEntry) -> int:
    """Bytes of the weights on the hub, which has them in 16 bits."""
    return 2 * entry.parameters


@dataclass(frozen=True)
class ModelRef:
    """A resolved reference to a base model."""

    kind: Literal["bundled", "hub", "folder"]
    name: str  # shown to users
    hub_id: str | None = None  # for hub models only
    folder: Path | None = None  # absolute path, for local folders only
    entry: CatalogEntry | None = None


def resolve(base: str, *, trust_remote_code: bool = False) -> ModelRef:
    """Resolve a catalog name, a hub id ``owner/name``, or a local folder with config.json, without network access.

    A catalog name takes precedence over a folder of that name (``./name`` selects the folder), an existing folder over
    a hub id. ``trust_remote_code``: whether the model's own Python code may run.

    Raises:
        ModelError: The name is unknown, or the folder does not contain a supported base model.
    """
    text = base.strip()
    entry = CATALOG.get(text.casefold())
    if entry is not None:
        if entry.name == BASE_MODEL:
            return ModelRef("bundled", entry.name, entry=entry)
        return ModelRef("hub", entry.name, hub_id=entry.hub_id, entry=entry)
    path = existing_path(text)
    if path is not None and path.is_dir():
        check_folder(path, trust_remote_code=trust_remote_code)
        return ModelRef("folder", path.resolve().name, folder=path.resolve())
    if path is not None and path.is_file():
        raise ModelError(
            m("{text} is a file, not a base model", text=text),
            remedy=m("Use the folder with config.json and *.safetensors"),
        )
    if _HUB_ID.fullmatch(text):
        entry = next(
            (known for known in _ENTRIES if known.hub_id.casefold() == text.casefold()), None
        )
        hub_id = entry.hub_id if entry else text
        return ModelRef("hub", hub_id, hub_id=hub_id, entry=entry)
    if "/" in text or "\\" in text or text.startswith(("~", ".")):
        raise ModelError(
            m("there is no folder {text}", text=text),
            remedy=m(
                "Correct the path. {available_models_sentence}",
                available_models_sentence=available_models_sentence(),
            ),
        )
    close = difflib.get_close_matches(text.casefold(), list(CATALOG), n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(close)}? " if close else ""
    raise ModelError(
        m("unknown base model {text!r}", text=text),
        remedy=m(
            "{meant}Use a catalog name, a hub id (owner/name) or a folder. {available_models_sentence}",
            meant=meant,
            available_models_sentence=available_models_sentence(),
        ),
    )
