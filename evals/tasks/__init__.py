"""lm-eval tasks: the held-out set, general knowledge, and tasks that a study names."""
