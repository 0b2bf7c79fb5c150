"""``python -m evals.bench``: training speed beside what a user would otherwise run, at equal results.

Every contender trains the same pairs on the same base with the same adapters, in a process of its own, in turn with
the others, several rounds long. The loss after training is taken on pairs that none of them saw, by one ruler for all,
so that no speed is bought with wrong results.
"""
