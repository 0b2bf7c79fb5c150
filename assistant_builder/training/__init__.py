"""Training of the two arms. Importing the package imports no torch; ``trainer`` is for worker processes."""
