"""Base models and the sentence embedder: catalog, download, checks and loading."""
