"""Statistics of paired comparisons: pure functions over arrays, on numpy and scipy alone. See ``evals.compare``."""
