"""The data of a study as the Data tab shows it: from its files once they are made, else from its data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from assistant_builder.data import Pair, Rejection
from assistant_builder.data.exporting import left_out_csv
from assistant_builder.data.reading import read_table
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.files import read_json, read_jsonl
from assistant_builder.study import Study
from assistant_builder.ui.downloads import offer_bytes
from assistant_builder.ui.inspection import inspect_file, power_of, preview_split
from assistant_builder.ui.markup import Markup, empty, error_callout
from assistant_builder.ui.page_words import page_words
from assistant_builder.ui.prompting import seen_by_model
from assistant_builder.ui.row_editing import left_out_download
from assistant_builder.ui.views.data import study_data_view, unreadable_view


def study_data(study: Study) -> Markup:
    """What was found in the study's data, and how it is split."""
    try:
        if is_prepared(study):
            split = read_json(study.folder / "data" / "split.json")
            by_meaning = read_json(study.embedding_file)["leaks"] if study.embedding_file.is_file() else []
            return study_data_view(
                read_json(study.folder / "data" / "findings.json"), split, power_of(split), _rejected(study),
                [*split["leaks"], *by_meaning],
            )
        return _source_view(study, study.config.data.columns)
    except AssistantBuilderError as error:
        return error_callout(error.to_record())


def is_prepared(study: Study) -> bool:
    """Whether the data step has made its files."""
    return all((study.folder / "data" / name).is_file() for name in ("split.json", "findings.json"))


def _rejected(study: Study) -> list[Rejection]:
    entries = read_jsonl(study.split_file("rejected"))
    return [Rejection(entry["row"], entry["reason"], entry.get("record")) for entry in entries]


def _source_view(study: Study, columns: Mapping[str, str]) -> Markup:
    if study.source is None:
        return empty("The data file is not in the study's folder", f"It is read from {study.config.data.source}.")
    seen = inspect_file(study.source, columns)
    if seen.findings is None:
        return unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns, seen.peek)
    split = preview_split(seen.findings, study.config.data)
    record = None if isinstance(split, dict) else split.to_record()
    return study_data_view(
        seen.findings.to_record(), record, power_of(record) if record else None, seen.findings.left_out,
        record["leaks"] if record else (),
    )


def study_seen_by_model(study: Study, rows: int) -> tuple[Markup, Markup]:
    """See :func:`~assistant_builder.ui.prompting.seen_by_model`; once there is a split, the rows are of training.

    Args:
        study: The study.
        rows: How many rows.
    """
    if study.source is None:
        return Markup(""), Markup("")
    first: Sequence[Pair] | None = None
    if is_prepared(study):
        first = [Pair.from_record(record, "train") for record in read_jsonl(study.split_file("train"))[:rows]]
    return seen_by_model(study.source, study.config, rows, first=first, day=study.template_date)


def study_left_out(study: Study) -> str | None:
    """The rows that the study leaves out, as CSV for download; None where there are none."""
    source = study.source
    if source is None:
        return None
    columns = study.config.data.columns
    if not is_prepared(study):
        return left_out_download(source, columns, study.name)
    reasons = {entry.row: page_words(entry.reason) for entry in _rejected(study)}
    if not reasons:
        return None
    table = read_table(Path(source), {name for name in columns.values() if name})
    return offer_bytes(left_out_csv(table, reasons), f"{study.name}-left-out.csv")
