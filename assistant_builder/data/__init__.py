"""Question-answer data: read, check, split, describe. Nothing here imports torch."""

from assistant_builder.data.card import dataset_card
from assistant_builder.data.checking import TokenCounter, check_pairs
from assistant_builder.data.findings import Findings
from assistant_builder.data.leaks import Leak, find_embedding_leaks
from assistant_builder.data.preparing import PreparedData, prepare
from assistant_builder.data.reading import column_names, load_pairs
from assistant_builder.data.records import SPLITS, Dataset, Message, Pair, Rejection, SplitName
from assistant_builder.data.splitting import Split, load_split, split_pairs
from assistant_builder.data.wording import Problem

__all__ = [
    "SPLITS",
    "Dataset",
    "Findings",
    "Leak",
    "Message",
    "Pair",
    "PreparedData",
    "Problem",
    "Rejection",
    "Split",
    "SplitName",
    "TokenCounter",
    "check_pairs",
    "column_names",
    "dataset_card",
    "find_embedding_leaks",
    "load_pairs",
    "load_split",
    "prepare",
    "split_pairs",
]
