"""Two studies against each other: the same paired statistics, on the held-out items that both have."""

from evals.study_compare.compare import compare_studies
from evals.study_compare.messages import contrast_rows, difference_rows

__all__ = ["compare_studies", "contrast_rows", "difference_rows"]
