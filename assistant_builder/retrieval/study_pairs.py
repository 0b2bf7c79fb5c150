"""The pairs of a study before and after its data step."""

from __future__ import annotations

from collections.abc import Sequence

from assistant_builder.data import Pair, load_split, prepare_dataset
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.study import Study


def splits(study: Study) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
    """Training, validation and test pairs: those of the data step, else as it will draw them.

    Raises:
        DataError: The data cannot be used.
        StudyError: The data file is missing.
    """
    if study.step("data").state == "succeeded":
        data = study.folder / "data"
        return tuple(load_split(data, name) for name in ("train", "validation", "heldout"))  # type: ignore[return-value]
    if study.source is None:
        raise StudyError(
            m("the {study}'s data file is missing"),
            where=str(study.folder / "data"),
            remedy=m("Start a new {study} from the file"),
        )
    split = prepare_dataset(study.source, study.config.data).split
    return split.train, split.validation, split.heldout
