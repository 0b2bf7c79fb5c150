"""Training of the arms. Importing the package does not import torch; ``trainer`` is for worker processes."""
