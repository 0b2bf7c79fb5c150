"""All options of a study with their defaults, bounds and help texts.

The command line, ``study.yaml`` and the page are generated from these fields. This package does not import torch.
"""

from assistant_builder.config.base import RegistryName
from assistant_builder.config.data import DataConfig
from assistant_builder.config.eval import EvalConfig
from assistant_builder.config.executor import ExecutorConfig
from assistant_builder.config.formats import FormatsConfig
from assistant_builder.config.model import ModelConfig
from assistant_builder.config.presets import BY_HEART, PRESET_LABELS, PRESETS
from assistant_builder.config.retrieval import RetrievalConfig
from assistant_builder.config.study_config import (
    BEFORE_APPROACHES,
    Approach,
    StudyConfig,
    check_name,
    constraints_of,
    load_config,
    name_and_title,
    option_fields,
    parse_config,
    printable,
    read_value,
    slug,
)
from assistant_builder.config.train import MICRO_BATCH, TrainConfig

__all__ = [
    "BEFORE_APPROACHES",
    "BY_HEART",
    "MICRO_BATCH",
    "PRESETS",
    "PRESET_LABELS",
    "Approach",
    "DataConfig",
    "EvalConfig",
    "ExecutorConfig",
    "FormatsConfig",
    "ModelConfig",
    "RegistryName",
    "RetrievalConfig",
    "StudyConfig",
    "TrainConfig",
    "check_name",
    "constraints_of",
    "load_config",
    "name_and_title",
    "option_fields",
    "parse_config",
    "printable",
    "read_value",
    "slug",
]
