"""Settings of the data: file, columns, split and limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assistant_builder.config.base import BASIC, ConfigModel


class DataConfig(ConfigModel):
    """The data file and its split."""

    source: str = Field("", title="Data file", description="CSV, TSV, JSON, JSONL, XLSX or Parquet file.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        title="Columns",
        description="Column of each role (question, answer, context, messages, group, cluster, family, split, "
        "answerable, system), for files with other column names. An empty name disables a role. Example: group=focus.",
    )
    system: str | None = Field(
        None,
        title="System prompt",
        description="Instruction for rows without a system prompt. Empty: the default of the base model.",
        json_schema_extra=BASIC,
    )
    heldout_fraction: float = Field(0.2, gt=0, lt=0.9, title="Test share",
                                    description="Share of the pairs that tests the assistants.",
                                    json_schema_extra=BASIC)
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, title="Validation share",
                                       description="Share of the remaining pairs that selects the best checkpoint.")
    max_train: int | None = Field(None, ge=1, title="Maximum training pairs", description="Empty: all pairs.",
                                  json_schema_extra=BASIC)
    max_heldout: int | None = Field(None, ge=2, title="Maximum test pairs", description="Empty: all pairs.",
                                    json_schema_extra=BASIC)
    near_duplicate_threshold: float = Field(
        0.8, gt=0.3, le=1, title="Near-duplicate threshold",
        description="Minimum Jaccard similarity of the word pairs of two near-duplicate questions.",
    )
    embedding_threshold: float = Field(
        0.95, gt=0.5, le=1, title="Embedding-leak threshold",
        description="Minimum cosine similarity of the sentence embeddings of a held-out and a training question that "
        "is reported as a leak.",
    )
    remove_leaks: Literal["auto", "always", "never"] = Field(
        "auto", title="Remove leaks",
        description="Remove held-out questions that also occur in training. auto: unless the file specifies the split.",
    )
    seed: int = Field(0, ge=0, title="Split seed", description="Seed of the split.")
