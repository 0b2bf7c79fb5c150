"""What the statistics are worth, by simulation: how often intervals hold the truth, and equal arms pass for equal.

``python -m evals.simulate`` prints both tables; with ``--write`` it remakes those of ``evals/README.md``.
"""
