"""Two studies against each other: the same paired statistics, on the held-out items that both have."""

from evals.across.comparing import compare_studies
from evals.across.wording import contrast_rows, difference_rows

__all__ = ["compare_studies", "contrast_rows", "difference_rows"]
