"""An export as a process of its own, followed through files, so that a reload of the page finds it again.

``exports/<arm>-<format>/`` of the study holds ``status.json`` (written by that process), ``log.txt``, and, where the
page asked, the export itself in ``files/`` and its archive.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.child_process import python_command
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.steps import State, process_alive, process_mark
from assistant_builder.study import Study
from assistant_builder.worker import child_environment
from evals.export.folders import check_target
from evals.export.kinds import Kind, planned_bytes, require_trained
from evals.export.rescore import DEFAULT_SAMPLE

ZIP_LIMIT = 2_000_000_000
"""Bytes of a merged model beyond which the page offers its folder alone; copying it once more would take long."""


@dataclass(frozen=True)
class JobRecord:
    """What ``status.json`` holds.

    Attributes:
        state: As last written; :meth:`ExportJob.record` turns a dead ``running`` into ``lost``.
        target: The folder that is made.
        started: Unix time.
        seconds: What it took, once it has ended.
        percent: How far it is.
        message: What it is at.
        pid: Its process.
        process_started: What tells that process from a later one with the same id.
        error: ``AssistantBuilderError.to_record()`` of a failed one.
    """

    state: State
    target: str
    started: float
    seconds: float = 0.0
    percent: int = 0
    message: str = ""
    pid: int | None = None
    process_started: str | float | None = None
    error: dict[str, Any] | None = None


class ExportJob:
    """One arm in one form; there is at most one export of it at a time.

    Args:
        study: The study.
        kind: Which arm in which form.
    """

    def __init__(self, study: Study, kind: Kind) -> None:
        self.study, self.kind = study, kind
        self.folder = study.folder / "exports" / kind.name
        self.status_file = self.folder / "status.json"
        self.log_file = self.folder / "log.txt"
        self.files = self.folder / "files"
        self.archive = self.folder / f"{study.name}-{kind.name}.zip"
        self._cancel_file = self.folder / "cancel"

    def record(self) -> JobRecord | None:
        """How the last export stands; None where there never was one."""
        if not self.status_file.exists():
            return None
        try:
            record = JobRecord(**read_json(self.status_file))
        except (TypeError, StudyError):
            return None  # of another version: nothing depends on it
        if record.state == "running" and not process_alive(record.pid, record.process_started):
            return replace(record, state="lost")
        return record

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        record = self.record()
        return record is not None and record.state == "running"

    def write(self, record: JobRecord) -> None:
        """Replace ``status.json``."""
        write_json(self.status_file, asdict(record))

    def start(
        self, target: Path | None = None, *, force: bool = False, sample: int = DEFAULT_SAMPLE
    ) -> subprocess.Popen[bytes]:
        """Start the export as a process that outlives this one.

        Args:
            target: The folder to make; None: the study's own, with an archive unless it is too large.
            force: Whether files in ``target`` may be replaced; in the study's own they are.
            sample: Held-out items to score again.

        Raises:
            StudyError: The arm is not trained, or is being exported.
            ConfigError: The folder must not be written to.
        """
        require_trained(self.study, self.kind)
        if self.running:
            raise StudyError(f"the {self.kind.arm} assistant is being exported already ({self.kind.format})",
                             where=f"study {self.study.name}", remedy="Wait until that is done")
        words = python_command("-m", "evals.export", "--study", str(self.study.folder), "--arm", self.kind.arm,
                               "--format", self.kind.format, "--sample", str(sample))
        if target is not None:
            check_target(target, force=force)
            words += ["--to", str(target), *(["--force"] if force else [])]
        else:
            words += ["--to", str(self.files), "--force"]
            if self.kind.format == "merged" and planned_bytes(self.study, self.kind) <= ZIP_LIMIT:
                words += ["--zip", str(self.archive)]
        return self._launch(words, target or self.files)

    def _launch(self, words: list[str], target: Path) -> subprocess.Popen[bytes]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._cancel_file.unlink(missing_ok=True)
            with self.log_file.open("wb") as log:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env=child_environment(),
                )
            # Before the child can write: from now on its death is noticed, even where it never gets to its own record.
            self.write(JobRecord("running", str(target), time.time(), message="Starting", pid=process.pid,
                                 process_started=process_mark(process.pid)))
        except OSError as error:
            raise StudyError(f"the export cannot be started: {error.strerror or error}", where=str(self.folder),
                             remedy="Free disk space, or make the study's folder writable") from error
        return process

    # cancelling

    def request_cancel(self) -> None:
        """Ask the process to stop; it looks between two pieces of work."""
        write_text(self._cancel_file, "")

    @property
    def cancel_requested(self) -> bool:
        """Whether someone asked it to stop."""
        return self._cancel_file.exists()

    def remove(self) -> None:
        """Remove what the study itself keeps of it; a folder elsewhere stays."""
        if self.running:
            raise StudyError("the export is under way", remedy="Cancel it first")
        shutil.rmtree(self.folder, ignore_errors=True)


def follow(
    job: ExportJob, process: subprocess.Popen[bytes], on_progress: Callable[[JobRecord], None]
) -> JobRecord:
    """Wait for an export that this process has started.

    Args:
        job: The export.
        process: Its process.
        on_progress: Told how it stands.

    Returns:
        The record of a finished one.

    Raises:
        AssistantBuilderError: It failed, was cancelled, or died.
    """
    while process.poll() is None:
        try:
            record = job.record()
            if record is not None:
                on_progress(record)
            time.sleep(0.2)
        except KeyboardInterrupt:
            job.request_cancel()
    record = job.record()
    if record is not None and record.state == "succeeded":
        return record
    if record is not None and record.error is not None:
        raise AssistantBuilderError(record.error["what"], where=record.error["where"], remedy=record.error["remedy"])
    died = f"its process was ended by signal {-process.returncode}" if process.returncode < 0 else "its process died"
    raise AssistantBuilderError(died, where=f"export {job.kind.name}", remedy=lost_remedy(job))


def lost_remedy(job: ExportJob) -> str:
    """What to do about an export whose process died without a word."""
    return f"Mostly memory ran out: close other programs and try again. The log is {job.log_file}"
