"""Many studies on one split: every combination of some settings, the choice by validation loss, what it is worth."""

from assistant_builder.sweep.run import run_sweep
from assistant_builder.sweep.spec import open_sweep

__all__ = ["open_sweep", "run_sweep"]
