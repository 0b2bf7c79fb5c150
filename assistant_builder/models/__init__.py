"""Base models and the embedder: which there are, how they are fetched, checked and loaded. Torch stops here."""
