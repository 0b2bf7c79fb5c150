"""What many studies a day take, and one of a large model: queueing, storage, cost, and what gives way first.

``python -m evals.capacity measure STUDY…`` takes the figures of finished studies; ``python -m evals.capacity`` prints
the plan that follows from them, with ``--write`` it remakes the tables of ``evals/capacity/README.md``.
"""
