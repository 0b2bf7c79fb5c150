"""An export in its own process, with its state in files, so that it survives a reload of the page.

``exports/<arm>-<format>/`` of the study holds ``status.json`` (written by that process), ``log.txt``, and, if the
page started it, the export itself in ``files/`` and its archive.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.child_process import compute_environment, python_command, start_program
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import AssistantBuilderError, StudyError, error_texts
from assistant_builder.export.atomic_dir import check_target
from assistant_builder.export.export import read_export
from assistant_builder.export.ollama import create_command
from assistant_builder.export.retrieval_files import check_with_data
from assistant_builder.export.verify import DEFAULT_SAMPLE
from assistant_builder.export_formats import ExportSpec, estimated_bytes, require_trained
from assistant_builder.i18n import Text, m, t, text_of, written
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.study import Study
from assistant_builder.study.locks import process_alive, process_identity
from assistant_builder.study.steps import Progress, State

ZIP_LIMIT = 2_000_000_000
"""Size beyond which the page offers the folder without an archive, which would take long to write."""


@dataclass(frozen=True)
class JobRecord:
    """Content of ``status.json``."""

    state: State  # as last written; :meth:`ExportJob.record` turns a dead ``running`` into ``lost``
    target: str
    started: float
    seconds: float = 0.0  # duration, once it has ended
    percent: int = 0
    message: str = ""  # in English
    said: dict[str, Any] | None = None  # record of the message
    pid: int | None = None
    # start time of the process, which distinguishes it from a later one with the same id
    process_started: str | float | None = None
    error: ErrorRecord | None = None  # ``AssistantBuilderError.to_record()`` of a failed export

    @classmethod
    def of_process(cls, pid: int, target: Path, message: Text) -> JobRecord:
        """The record of a process that starts now."""
        identity = process_identity(pid)
        record = cls("running", str(target), time.time())
        return replace(record, pid=pid, process_started=identity).saying(message)

    def saying(self, message: Text) -> JobRecord:
        """The record with a message."""
        text, said = written(message)
        return replace(self, message=text, said=said)

    @property
    def text(self) -> Text:
        """What the export does."""
        return text_of(self.said, self.message)


class ExportJob:
    """The export of one arm in one format; at most one runs at a time."""

    def __init__(self, study: Study, spec: ExportSpec) -> None:
        self.study, self.spec = study, spec
        self.folder = study.export_folder(spec.name)
        self.status_file = self.folder / "status.json"
        self.log_file = self.folder / "log.txt"
        self.files = self.folder / "files"
        self.archive = self.folder / f"{study.name}-{spec.name}.zip"
        self._cancel_file = self.folder / "cancel"

    def record(self) -> JobRecord | None:
        """The record of the last export; None if there was none."""
        if not self.status_file.exists():
            return None
        try:
            record: JobRecord = read_json(self.status_file, JobRecord)
        except StudyError:
            return None  # of another version: nothing depends on it
        if record.state == "running" and not process_alive(record.pid, record.process_started):
            return replace(record, state="lost")
        return record

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        record = self.record()
        return record is not None and record.state == "running"

    def write(self, record: JobRecord) -> None:
        """Replace ``status.json``."""
        write_json(self.status_file, asdict(record))

    def start(
        self,
        target: Path | None = None,
        *,
        force: bool = False,
        sample: int = DEFAULT_SAMPLE,
        with_data: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start the export as a process that outlives this one.

        Without ``target`` the export is written to the study, where files are always replaced, with an archive unless
        it is too large. ``with_data``: see :func:`assistant_builder.export.export.write_export`.

        Raises:
            StudyError: The arm is not trained, or is being exported.
            ConfigError: The folder must not be written to, there is no index to export, or a package
                that the format needs is not installed.
        """
        require_trained(self.study, self.spec)
        self.spec.export_format.check()
        check_with_data(self.study, with_data=with_data)
        if self.running:
            raise StudyError(
                m(
                    "the {arm} assistant is being exported already ({format})",
                    arm=self.spec.arm,
                    format=self.spec.format,
                ),
                where=m("{study} {name}", name=self.study.name),
                remedy=m("Wait until that is done"),
            )
        options: dict[str, Any] = {
            "sample": sample,
            "with_data": with_data,
        }
        options["force"] = force or target is None
        if target is not None:
            check_target(target, force=force)
        elif not self.spec.export_format.zipped:
            if estimated_bytes(self.study, self.spec) <= ZIP_LIMIT:
                options["archive"] = str(self.archive)
        words = python_command("-m", "assistant_builder.export", str(self.study.folder))
        words += [self.study.config.approaches[0], self.spec.arm, self.spec.format, self.spec.type]
        words += [str(target or self.files), json.dumps(options)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._cancel_file.unlink(missing_ok=True)
            self.log_file.unlink(missing_ok=True)  # a file that another name shares stays as it is
            with self.log_file.open("xb") as log:
                process = start_program(words, compute_environment(), log)
            # Written before the child writes, so that its death is noticed even if it never writes its own record.
            self.write(JobRecord.of_process(process.pid, target or self.files, t("Starting")))
        except OSError as error:
            raise StudyError(
                m("the export cannot be started: {strerror}", strerror=error.strerror or error),
                where=str(self.folder),
                remedy=m("Free disk space, or make the {study}'s folder writable"),
            ) from error
        return process

    def request_cancel(self) -> None:
        """Ask the process to stop; it checks between two activities."""
        write_text(self._cancel_file, "")

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancellation was requested."""
        return self._cancel_file.exists()

    def remove(self) -> None:
        """Remove the files in the study's folder; an export to another folder stays."""
        if self.running:
            raise StudyError(m("the export is running"), remedy=m("Cancel it first"))
        shutil.rmtree(self.folder, ignore_errors=True)


def _follow(
    job: ExportJob, process: subprocess.Popen[bytes], on_progress: Callable[[Progress], None]
) -> None:
    while process.poll() is None:
        try:
            record = job.record()
            if record is not None:
                on_progress(Progress.saying(record.percent, 100, "%", record.text))
            time.sleep(0.2)
        except KeyboardInterrupt:
            job.request_cancel()
    record = job.record()
    if record is not None and record.state == "succeeded":
        return
    if record is not None and record.error is not None:
        raise AssistantBuilderError(**error_texts(record.error))
    died = (
        m("its process was ended by signal {value}", value=-process.returncode)
        if process.returncode < 0
        else m("its process died")
    )
    raise AssistantBuilderError(
        died,
        where=f"export {job.spec.name}",
        remedy=m(
            "Usually memory ran out: close other programs and try again. The log is {log_file}",
            log_file=job.log_file,
        ),
    )


def export_to(
    study: Study,
    spec: ExportSpec,
    target: Path,
    *,
    force: bool,
    sample: int,
    with_data: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Export to a folder, wait for the end, and return ``export.json``; arguments as of :meth:`ExportJob.start`.

    Raises:
        AssistantBuilderError: The export failed or was cancelled, or its process died; the folder is unchanged.
    """
    job = ExportJob(study, spec)
    target = target.expanduser().absolute()
    _follow(
        job,
        job.start(target, force=force, sample=sample, with_data=with_data),
        on_progress,
    )
    record = read_export(target)
    if record is None:
        raise StudyError(m("the export is missing"), where=str(target), remedy=m("Export again"))
    return record


def summary_lines(record: dict[str, Any]) -> list[str]:
    """The lines that the command line prints about a finished export."""
    folder = Path(record["folder"])
    lines = [
        *record["sentences"],
        f"{folder}: {format_bytes(record['bytes'])} in {len(record['files'])} files",
    ]
    if record["archive"]:
        lines.append(f"In one file: {folder / record['archive']}")
    if record["format"] == "gguf":
        lines.append(f"In Ollama: {create_command(folder, record['study'])}")
    return [*lines, f"How to load it: {folder / 'LOADING.md'}"]
