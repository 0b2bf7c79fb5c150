"""Question-answer data: reading, validation, splitting and description. No module of this package imports torch."""

from assistant_builder.data.card import dataset_card
from assistant_builder.data.check_messages import Problem
from assistant_builder.data.leaks import Leak, find_embedding_leaks
from assistant_builder.data.prepare import PreparedData, prepare_dataset
from assistant_builder.data.reading_process import load_pairs
from assistant_builder.data.split import Split, load_split, split_pairs
from assistant_builder.data.types import SPLITS, Dataset, Message, Pair, RejectedRow, SplitName
from assistant_builder.data.validate import Findings, TokenCounter, check_pairs

__all__ = [
    "SPLITS",
    "Dataset",
    "Findings",
    "Leak",
    "Message",
    "Pair",
    "PreparedData",
    "Problem",
    "RejectedRow",
    "Split",
    "SplitName",
    "TokenCounter",
    "check_pairs",
    "dataset_card",
    "find_embedding_leaks",
    "load_pairs",
    "load_split",
    "prepare_dataset",
    "split_pairs",
]
