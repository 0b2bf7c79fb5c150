"""Many studies on one split: every combination of some settings, the choice by validation loss, what it is worth."""

from evals.sweep.defining import open_sweep
from evals.sweep.running import run_sweep

__all__ = ["open_sweep", "run_sweep"]
