"""Looking up training pairs: the index, search, and recall on validation questions. Importing it loads no torch."""

from assistant_builder.retrieval.build import write_index
from assistant_builder.retrieval.index import (
    MAX_FACTS,
    Fact,
    Hit,
    Index,
    Query,
    TextEncoder,
    facts_of,
)
from assistant_builder.retrieval.recall import (
    RECALL,
    Recall,
    Recommendation,
    last_facts,
    recall_at_k,
    recommend,
    recommended_approach,
)

__all__ = [
    "MAX_FACTS",
    "RECALL",
    "Fact",
    "Hit",
    "Index",
    "Query",
    "Recall",
    "Recommendation",
    "TextEncoder",
    "facts_of",
    "last_facts",
    "recall_at_k",
    "recommend",
    "recommended_approach",
    "write_index",
]
