"""Sweeps: studies of every combination of some settings on one split, selected by validation loss."""

from assistant_builder.sweep.run import run_sweep
from assistant_builder.sweep.spec import open_sweep

__all__ = ["open_sweep", "run_sweep"]
