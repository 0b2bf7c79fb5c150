"""Settings of the data: file, columns, split and limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assistant_builder.config.base import BASIC, ConfigModel
from assistant_builder.i18n import N_


class DataConfig(ConfigModel):
    """The data file and its split."""

    source: str = Field("", title=N_("Data file"))
    """CSV, TSV, JSON, JSONL, XLSX or Parquet file."""
    columns: dict[str, str] = Field(default_factory=dict, title=N_("Columns"))
    """Column of each role (question, answer, context, messages, group, cluster, family, split, answerable, system), for
    files with other column names. An empty name disables a role. Example: group=focus."""
    system: str | None = Field(None, title=N_("System prompt"), json_schema_extra=BASIC)
    """Instruction for rows without a system prompt. Empty: the default of the base model."""
    heldout_fraction: float = Field(
        0.2, gt=0, lt=0.9, title=N_("Test share"), json_schema_extra=BASIC
    )
    """Share of the pairs that tests the assistants."""
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, title=N_("Validation share"))
    """Share of the remaining pairs for validation: the rule for declining is fitted on it, or if answers come from
    memory, it selects the best checkpoint."""
    max_train: int | None = Field(
        None, ge=1, title=N_("Maximum training pairs"), json_schema_extra=BASIC
    )
    """Empty: all pairs."""
    max_heldout: int | None = Field(
        None, ge=2, title=N_("Maximum test pairs"), json_schema_extra=BASIC
    )
    """Empty: all pairs."""
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1, title=N_("Near-duplicate threshold"))
    """Minimum Jaccard similarity of the word pairs of two near-duplicate questions."""
    embedding_threshold: float = Field(0.95, gt=0.5, le=1, title=N_("Same-meaning threshold"))
    """Minimum cosine similarity of the sentence embeddings of a test and a training question that is reported as
    overlap."""
    remove_leaks: Literal["auto", "always", "never"] = Field("auto", title=N_("Remove overlap"))
    """Remove test questions that also occur in training. auto: unless the file specifies the split."""
    seed: int = Field(0, ge=0, title=N_("Split seed"))
    """Seed of the split."""
