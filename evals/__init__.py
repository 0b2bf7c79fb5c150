"""Evaluation: scoring through lm-eval, paired statistics and the report."""
