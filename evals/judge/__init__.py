"""Pairwise judge: client for OpenAI-compatible endpoints, prompts and preference."""
