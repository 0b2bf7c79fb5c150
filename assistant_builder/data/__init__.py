"""Question-answer data: read, check, split, describe. Nothing here imports torch."""

from assistant_builder.data.reading import column_names, load_pairs
from assistant_builder.data.records import Dataset, Message, Pair, Rejection

__all__ = ["Dataset", "Message", "Pair", "Rejection", "column_names", "load_pairs"]
