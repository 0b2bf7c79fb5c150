"""Inference with loaded models: batches, KV cache, generation and scoring; chat, serving and evaluation use it."""
