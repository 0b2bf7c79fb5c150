"""Every option of a study: its default, bounds and help text, in this one place.

The command line, ``study.yaml`` and the page are generated from these fields. Importing this package must not import
torch.
"""

from assistant_builder.config.base import NameOf
from assistant_builder.config.data import DataConfig
from assistant_builder.config.eval import EvalConfig
from assistant_builder.config.executor import ExecutorConfig
from assistant_builder.config.model import ModelConfig
from assistant_builder.config.study_config import (
    PRESET_LABELS,
    PRESETS,
    StudyConfig,
    check_name,
    load_config,
    option_fields,
    parse_config,
    printable,
    read_value,
)
from assistant_builder.config.train import TrainConfig

__all__ = [
    "PRESETS", "PRESET_LABELS", "DataConfig", "EvalConfig", "ExecutorConfig", "ModelConfig", "NameOf", "StudyConfig",
    "TrainConfig", "check_name", "load_config", "option_fields", "parse_config", "printable", "read_value",
]
