"""A finished verdict as one file that others can check: ``bundle`` and ``verify``."""
