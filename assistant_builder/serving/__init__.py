"""Finished assistants behind an OpenAI-compatible endpoint: on this machine, on a Ray cluster, or by vLLM."""
