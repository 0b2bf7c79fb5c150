"""Every option of a study: its default, bounds and help text, in this one place.

The command line, ``study.yaml`` and the page are generated from these fields. Importing this package must not import
torch.
"""

from assistant_builder.config.executor import ExecutorConfig
from assistant_builder.config.parts import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    NameOf,
    TrainConfig,
)
from assistant_builder.config.study_config import (
    PRESET_WORDS,
    PRESETS,
    StudyConfig,
    check_name,
    load_config,
    option_fields,
    parse_config,
    printable,
    read_value,
)

__all__ = [
    "PRESETS", "PRESET_WORDS", "DataConfig", "EvalConfig", "ExecutorConfig", "ModelConfig", "NameOf", "StudyConfig",
    "TrainConfig", "check_name", "load_config", "option_fields", "parse_config", "printable", "read_value",
]
