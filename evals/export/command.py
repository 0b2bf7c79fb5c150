"""The export as the command line runs it: started, followed to its end, told in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from assistant_builder.errors import StudyError
from assistant_builder.steps import Progress
from assistant_builder.study import Study
from evals.export.job import ExportJob, JobRecord, follow
from evals.export.kinds import Kind
from evals.export.run import read_export
from evals.report.format import size


def export_to(
    study: Study, kind: Kind, target: Path, *, force: bool, sample: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Export into a folder of the user's.

    Args:
        study: The study.
        kind: Which arm in which form.
        target: The folder to make.
        force: Whether files there may be replaced.
        sample: Held-out items to score again.
        on_progress: Told how far it is.

    Returns:
        What ``export.json`` of the folder says, with the folder.

    Raises:
        AssistantBuilderError: It cannot be done; the folder is as it was.
    """
    job = ExportJob(study, kind)
    target = target.expanduser().absolute()

    def told(record: JobRecord) -> None:
        on_progress(Progress(record.percent, 100, "%", record.message))

    follow(job, job.start(target, force=force, sample=sample), told)
    record = read_export(target)
    if record is None:
        raise StudyError("the export is gone", where=str(target), remedy="Export again")
    return record


def told_lines(record: dict[str, Any]) -> list[str]:
    """What the command line says of a finished export."""
    folder = Path(record["folder"])
    lines = [*record["sentences"], f"{folder}: {size(record['bytes'])} in {len(record['files'])} files"]
    if record["archive"]:
        lines.append(f"In one file: {folder / record['archive']}")
    return [*lines, f"How to load it: {folder / 'LOADING.md'}"]
