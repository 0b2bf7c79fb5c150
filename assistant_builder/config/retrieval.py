"""Settings of the grounded approach."""

from __future__ import annotations

from pydantic import Field

from assistant_builder.config.base import ConfigModel


class RetrievalConfig(ConfigModel):
    """Looking up training pairs for a question."""

    facts: int = Field(3, ge=1, le=10, title="Facts in a prompt", description="Most training pairs in the prompt of a "
                       "question. Where the search is sure it has fewer.")
    false_declines: float = Field(
        0.04, gt=0, lt=0.5, title="False declines", description="Largest share of answerable questions that the rule "
        "for declining may decline, as measured on validation questions. New wordings are often harder.")
    sources_in_endpoint: bool = Field(
        False, title="Sources in the endpoint", description="Whether 'serve' sends the facts that were found with each "
        "answer. They are rows of the data file.")
