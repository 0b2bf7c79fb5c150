"""The study folder, which contains the complete state of a study: layout, step records, locks, administration."""

from assistant_builder.study.layout import home, run_marker, studies_folder
from assistant_builder.study.study import CHECKPOINT_MARKER, Study

__all__ = ["CHECKPOINT_MARKER", "Study", "home", "run_marker", "studies_folder"]
