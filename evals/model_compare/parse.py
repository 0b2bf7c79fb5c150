"""The candidates that the words of a command name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from evals.model_compare.candidates import Candidate
from evals.model_compare.endpoint import EndpointCandidate
from evals.model_compare.gguf_file import GgufCandidate
from evals.model_compare.log import LogCandidate
from evals.model_compare.transformers_model import TransformersCandidate

LETTERS = "ABCDEFGHIJ"  # of the candidates, in their order
OLLAMA = "http://127.0.0.1:11434/v1"
"""Where a local Ollama answers."""


def parse_candidates(words: Sequence[str]) -> list[Candidate]:
    """The candidates that words name, the reference first.

    A word is a ``*.gguf`` file, a log of lm-eval (``samples_….jsonl``) or inspect (``.json``, ``.eval``),
    ``MODEL@URL`` or ``ollama:TAG`` for an endpoint, or a model that transformers loads: a folder, a name of the catalog
    or a hub id.

    Raises:
        ConfigError: Fewer than two, too many, a file of no known kind, or an address with a password.
    """
    if not 2 <= len(words) <= len(LETTERS):
        raise ConfigError(
            m(
                "{count} candidates are named, and 2 to {most} can be compared",
                count=len(words),
                most=len(LETTERS),
            ),
            where="judge",
            remedy=m("Name the reference first, then what is compared with it"),
        )
    return [_parse(letter, word) for letter, word in zip(LETTERS, words, strict=False)]


def _parse(letter: str, word: str) -> Candidate:
    for scheme in ("http://", "https://"):
        model, at, rest = word.partition(f"@{scheme}")
        if at:
            return EndpointCandidate(letter, word, scheme + rest, model)
    if word.startswith("ollama:"):
        return EndpointCandidate(letter, word, OLLAMA, word.removeprefix("ollama:"))
    if word.startswith(("http://", "https://")):
        raise ConfigError(
            m("the address {url} has no name of a model", url=word),
            where=letter,
            remedy=m("Write MODEL@URL, for example my-model@http://127.0.0.1:8000/v1"),
        )
    path = Path(os.path.expanduser(word))  # the other one raises for an unknown user
    if path.suffix.lower() == ".gguf":
        return GgufCandidate(letter, word, path)
    if path.suffix.lower() in (".jsonl", ".json", ".eval"):
        return LogCandidate(letter, word, path)
    if os.path.isfile(path):
        raise ConfigError(
            m("{path} is neither a GGUF file nor a log of lm-eval or inspect", path=path),
            where=letter,
            remedy=m("Name a *.gguf file, a samples_*.jsonl, a folder, a hub id, or MODEL@URL"),
        )
    return TransformersCandidate(letter, word)
