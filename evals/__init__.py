"""What 4-bit cost: scoring through lm-eval, paired statistics, report. Imports assistant_builder, never the reverse."""
