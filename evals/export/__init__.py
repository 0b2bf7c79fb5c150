"""Take a trained assistant out of its study: an adapter or a whole model, scored again after it was written.

``python -m evals.export`` does the work in a process of its own; everything else here imports no torch.
"""
