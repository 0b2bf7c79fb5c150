"""Comparison of two studies with the paired statistics of the report, on the held-out items that both have."""

from evals.study_compare.compare import compare_studies
from evals.study_compare.messages import contrast_rows, difference_rows

__all__ = ["compare_studies", "contrast_rows", "difference_rows"]
