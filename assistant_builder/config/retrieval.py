"""Settings of the grounded approach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from assistant_builder.config.base import ConfigModel
from assistant_builder.i18n import N_

ExampleQuestion = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)
]


class RetrievalConfig(ConfigModel):
    """Looking up training pairs for a question."""

    embedder: Annotated[str, AfterValidator(str.strip)] = Field("", title=N_("Sentence embedder"))
    """Model that looks facts up. Empty: all-MiniLM-L6-v2 for data in English, else multilingual-e5-small, which is
    downloaded once (91 MB). english or multilingual: that one. Or the folder or hub id of a sentence-transformers
    model."""
    train_embedder: bool = Field(True, title=N_("Train the embedder"))
    """Whether a copy of the sentence embedder is trained on the training questions, so that it knows names and wordings
    of the data and tells other questions from them. Takes a minute or two."""
    facts: int = Field(3, ge=1, le=10, title=N_("Facts in a prompt"))
    """Largest number of training pairs in the prompt of a question. Where the search is sure it has fewer."""
    false_declines: float = Field(0.04, gt=0, lt=0.5, title=N_("False declines"))
    """Largest share of the validation questions whose own fact is found first that the rule for declining may decline.
    Questions nearest to a question to decline are declined in any case. New wordings are often harder."""
    most_wrong: float = Field(0.05, ge=0.01, le=0.5, title=N_("Promise"))
    """Largest share of wrong answers that the report tries to promise, of what the assistant answers. To be set before
    the evaluation."""
    keep_promise: bool = Field(False, title=N_("Keep the promise"))
    """Whether assistants that are served, exported or on a website decline as often as the promise needs. The report
    shows how many questions they then answer."""
    if_broken: Literal["answer", "copy", "decline"] = Field(
        "answer", title=N_("If the promise is broken")
    )
    """What a served assistant does once judged answers speak against the promise. answer: goes on. copy: copies
    answers from the data until that is found wrong too. decline: declines every question, so that visitors see whom to
    ask instead. Another version, or other judgements, end it."""
    final_index: bool = Field(True, title=N_("Final index"))
    """Whether answers that only validation and test questions have are added to the index after the evaluation, so that
    the assistant can answer them too."""
    greeting: str = Field("", max_length=500, title=N_("Reply to greetings"))
    """What a grounded assistant says to greetings, thanks and "what can you do?". Empty: a short reply in the language
    of the greeting."""
    suggestions: bool = Field(True, title=N_("Suggested questions"))
    """Whether questions of the data are offered: the two nearest ones where the assistant declines, and examples after
    a greeting. They are rows of the data file, and visitors see them."""
    examples: list[ExampleQuestion] = Field([], max_length=5, title=N_("Example questions"))
    """Up to five that an empty conversation and the reply to a greeting offer, in place of three of the data."""
    sources_in_endpoint: bool = Field(False, title=N_("Sources in the endpoint"))
    """Whether 'serve' sends the facts that were found with each answer. They are rows of the data file."""
