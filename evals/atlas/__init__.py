"""The atlas: what a smaller storage cost in several studies, pooled by a random-effects meta-analysis.

An effect is the harm of a storage against the 16-bit twin on one metric: positive is worse. Losses are in nats per
token, other metrics in points.
"""

from evals.atlas.declared import run_missing
from evals.atlas.effects import effects_of
from evals.atlas.pooled import atlas
from evals.atlas.text import markdown

__all__ = ["atlas", "effects_of", "markdown", "run_missing"]
