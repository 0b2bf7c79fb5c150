"""Do harm on purpose, many times over, and count what is lost: ``python -m evals.soak --faults``.

``make test`` holds a representative minute of each promise of RELIABILITY.md; this command holds the whole.
"""
