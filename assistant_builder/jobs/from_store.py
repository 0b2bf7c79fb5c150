"""Bring a study here from its store, or what is new of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from assistant_builder.config import check_name
from assistant_builder.errors import ConfigError, StoreError
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.running import held
from assistant_builder.jobs.storing import catch_up, study_url
from assistant_builder.stores import Store
from assistant_builder.study import Study, studies_folder


def fetch_study(url: str) -> Study:
    """Bring a study here, whole or not at all; where a copy of it is, what is new of it.

    Args:
        url: The store's URL, a slash, and the study's name.

    Raises:
        ConfigError: The URL names no study, or holds a secret.
        StoreError: The store does not answer, or holds no such study.
        StudyError: A study of that name is here and is no copy of that one, or it runs.
    """
    store_url, _, name = url.rstrip("/").rpartition("/")
    try:
        folder = studies_folder() / check_name(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} names no study: {error}", where="the URL") from error
    if folder.exists():
        bring_news(Study(folder), store_url)
        return Study(folder)
    store = Store(study_url(store_url, name))
    if "study.yaml" not in store.marks():
        raise StoreError("there is no study there", where=store.url,
                         remedy="Check the URL: what executor.store says, a slash, and the study's name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        Mirror(Study(scratch), store).pull()
        os.chmod(scratch, 0o755)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Study(folder)


def bring_news(study: Study, store_url: str) -> None:
    """Bring here what other machines have added to a study in a store.

    Args:
        study: The study, of which there is a folder here.
        store_url: URL of the store.

    Raises:
        StoreError: The store does not answer.
        StudyError: The study here is no copy of the one there, or it runs.
    """
    with held(study):
        catch_up(Mirror(study, Store(study_url(store_url, study.name))))
