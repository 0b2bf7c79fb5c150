"""What other sheets say about declining, for data with too few validation questions to say it alone.

The log-odds that a question can be answered were fitted on the held-out questions of nine sheets of 22 facts from
Ostrel Sound Ferries, Quernby Evening College and Wexholme Community Pool: ``python -m benchmarks.small_sheets`` prints
them, and what a prior from two of these datasets decides on the third. They hold for the English embedder, trained on
the questions of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PRIOR_QUESTIONS = 14
"""Answerable validation questions that count as much as the prior."""
PRIOR_SHARE = 1.25
"""Share of false declines of the prior's threshold, in units of the share that is asked for: with it about as many
questions to decline are declined as by the sheets' own rules."""

SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.08, 0.12, 0.2, 0.3)
"""Shares of the answerable questions for which thresholds are known."""


@dataclass(frozen=True)
class Prior:
    """The log-odds that a question can be answered, by what was found for it.

    Attributes:
        certainty, nearby, bias: Weights of the evidence, as it is, and the log-odds without any.
        below: The log-odds below which each of :data:`SHARES` of the answerable questions is.
    """

    certainty: float
    nearby: float
    bias: float
    below: tuple[float, ...]

    def threshold(self, target: float) -> float:
        """The log-odds below which a question is declined, for the share of false declines that is asked for."""
        return float(np.interp(PRIOR_SHARE * target, SHARES, self.below))


Priors = Mapping[bool, Prior]
"""Whether questions to decline are known → the prior. Without any, ``nearby`` is the score of the best answer."""
PRIORS: Priors = {
    True: Prior(
        4.3,
        2.999,
        -0.192,
        (-2.412, -2.042, -1.753, -1.359, -1.065, -0.507, -0.07, 0.495, 0.962),
    ),
    False: Prior(
        5.885,
        0.0,
        1.512,
        (-3.372, -2.591, -1.614, -0.893, -0.798, -0.196, 0.24, 0.781, 1.165),
    ),
}
