"""The study folder: the files that record the state of the study and its steps.

Every file has one writer. A step writes its status file last, so ``succeeded`` in it is the done-marker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json, write_bytes, write_json, write_text
from assistant_builder.config import (
    StudyConfig,
    name_and_title,
)
from assistant_builder.errors import (
    CHOOSE_NAME,
    AssistantBuilderError,
    Cancelled,
    StudyError,
)
from assistant_builder.i18n import ByPlace, m
from assistant_builder.study.containment import check_folder
from assistant_builder.study.contents import FirstVerdict
from assistant_builder.study.layout import StudyLayout, studies_folder
from assistant_builder.study.locks import (
    folder_lock,
    is_lease_fresh,
    process_alive,
    process_identity,
)
from assistant_builder.study.steps import (
    FORMATS,
    SUFFIXES,
    Progress,
    RunRecord,
    State,
    StepRecord,
    insert_shards,
)

_TEMPLATE_DATE = "template_date.json"
CHECKPOINT_MARKER = "complete.json"
"""File that is written last into a checkpoint; a checkpoint without it is incomplete."""
_ENDED: tuple[State, ...] = ("failed", "cancelled")
_RESERVE, _RESERVE_BYTES = ".reserve", 65_536
_CANCEL = "cancel"


class Study(StudyLayout):
    """A study folder; :meth:`create` creates one and :meth:`open` finds one by name.

    A study with two approaches is seen through one of them: :meth:`of_approach` has the adapters, scores and report of
    that approach, and its settings name it alone. Without a choice it is the main approach, the first of the settings.
    """

    FINAL_INDEX = "final"
    """Folder within that of the index: the index with answers that were added after the evaluation."""

    def _require_folder(self) -> None:
        """Raise StudyError if the folder is missing, because a write would create an incomplete one."""
        if not (self.folder / "study.yaml").is_file():
            raise StudyError(
                m("the folder of {study} {name} is missing", name=self.name),
                where=str(self.folder),
                remedy=m("Restore it or connect its disk, then run again to resume"),
            )

    # creating and opening

    @classmethod
    def create(cls, config: StudyConfig, source: Path | None = None) -> Study:
        """Create the folder of a new study, which must not exist, atomically, with a copy of the data file."""

        def fill(folder: Path) -> None:
            (folder / "data").mkdir()
            if source is not None:
                shutil.copyfile(source, folder / "data" / f"source{source.suffix.lower()}")
            write_text(folder / "study.yaml", config.to_yaml())

        return cls.create_folder(config.name, fill)

    @classmethod
    def create_folder(cls, name: str, fill: Callable[[Path], None]) -> Study:
        """Create the folder of a study, which must not exist, atomically; ``fill`` writes its files."""
        folder = studies_folder() / name
        if folder.exists():
            resume = ByPlace(
                m("resume it with 'assistant-builder run {name}'", name=name),
                m("open that project at the top of the page"),
            )
            raise StudyError(
                m("a {study} named {name!r} already exists", name=name),
                where=str(folder),
                remedy=m(
                    "{choose_name}, or {resume}",
                    choose_name=CHOOSE_NAME,
                    resume=resume,
                ),
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
            try:
                fill(scratch)
                os.chmod(scratch, 0o755)
                os.rename(scratch, folder)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        except OSError as error:
            raise StudyError(
                m("the {study} cannot be created: {strerror}", strerror=error.strerror),
                where=str(folder),
                remedy=m("Free space or set ASSISTANT_BUILDER_HOME to a folder you may write to"),
            ) from error
        return cls(folder)

    @classmethod
    def open(cls, name: str) -> Study:
        """Find a study by its name or title; raises StudyError if there is none, or for :func:`check_folder`."""
        valid, title = name_and_title(name)
        folder = studies_folder() / valid
        check_folder(folder)
        if not (folder / "study.yaml").is_file() or title and cls(folder).config.title != title:
            names = [study.name for study in Study.all()]
            known = (
                m("Existing {studies}: {names}", names=", ".join(names))
                if names
                else m("Create one with 'assistant-builder run FILE'")
            )
            raise StudyError(
                m("no {study} named {name!r}", name=name), where=str(studies_folder()), remedy=known
            )
        return cls(folder)

    @staticmethod
    def all() -> list[Study]:
        """All studies, the most recently changed first."""
        found = [
            (modified(path.parent), path.parent)
            for path in studies_folder().glob("[!.]*/study.yaml")
        ]
        return [Study(folder) for _, folder in sorted(found, key=lambda entry: -entry[0])]

    # steps shown

    @property
    def shown_steps(self) -> tuple[str, ...]:
        """The steps and the started shards; after the evaluation has succeeded, only the shards that succeeded."""
        shards = [shard for shard in self.shards if self.status_file(shard).exists()]
        if self.step("evaluate").state == "succeeded":
            shards = [shard for shard in shards if self.step(shard).state == "succeeded"]
        return insert_shards(self.steps, shards)

    # the date in prompts

    @property
    def template_date(self) -> date:
        """The date that chat templates of this study render as today's date.

        :meth:`record_template_date` records it in the first step. Without a record it is the day of the first training,
        else of the data step, else today.
        """
        path = self.folder / _TEMPLATE_DATE
        if path.is_file():
            remedy = m(
                'Write {{"date": "YYYY-MM-DD"}} into it, the day on which the {study} was trained'
            )
            try:
                return date.fromisoformat(read_json(path, remedy=remedy)["date"])
            except (TypeError, ValueError) as error:
                raise StudyError(
                    m("the file contains no date"), where=str(path), remedy=remedy
                ) from error
        for steps in ([step for step in self.steps if step.startswith("train-")], ["data"]):
            times = [self.step(step).started for step in steps]
            if begun := [when for when in times if when is not None and 0 < when < time.time()]:
                return date.fromtimestamp(min(begun))
        return date.today()

    def record_template_date(self, like: Study | None = None) -> date:
        """Return :attr:`template_date` and record it; called before a step renders prompts.

        Without a record, the date of ``like``, a study with which this one will be compared, is used.
        """
        recorded = (self.folder / _TEMPLATE_DATE).exists()
        day = (self if like is None or recorded else like).template_date
        if not recorded:
            self._require_folder()
            # in a read-only folder the step records give the date
            with contextlib.suppress(OSError):
                write_json(self.folder / _TEMPLATE_DATE, {"date": day.isoformat()})
        return day

    def lock(self, taken: StudyError | None = None) -> AbstractContextManager[None]:
        """Lock the study for this process, see :func:`folder_lock`; the default error is that of a running study."""
        running = StudyError(
            m("another process runs this {study}"),
            where=m("{study} {name}", name=self.name),
            remedy=m(
                "Watch it with 'assistant-builder status {name}' or stop it with 'assistant-builder cancel {name}'",
                name=self.name,
            ),
        )
        return folder_lock(self.folder, taken or running)

    # steps

    def step(self, step: str) -> StepRecord:
        """The record of a step; ``running`` becomes ``lost`` if its process or node is dead.

        An unreadable record raises StudyError, except that of a shard, because nothing depends on it.
        """
        try:
            return self._recorded(step)
        except StudyError:
            if step.startswith("score-"):
                return StepRecord(step)
            raise

    def _recorded(self, step: str) -> StepRecord:
        if step.startswith("train-"):
            step = self._own(step)
        check_folder(self.folder)
        path = self.status_file(step)
        if not path.exists():
            return StepRecord(step)
        remedy = m("{Redo} to repeat that step")
        record: StepRecord = read_json(path, StepRecord, remedy=remedy)
        if record.step != step:
            raise StudyError(
                m("the status file is of another step"), where=str(path), remedy=remedy
            )
        alive = record.state != "running" or (  # a cluster node renews its lease while it runs
            process_alive(record.pid, record.process_started)
            if record.node is None
            else is_lease_fresh(self.lease_file(step))
        )
        return record if alive else replace(record, state="lost")

    def write_step(self, record: StepRecord) -> None:
        """Write the status file of a step; ``succeeded`` is written after all outputs."""
        self._require_folder()
        step = self._own(record.step) if record.step.startswith("train-") else record.step
        write_json(self.status_file(step), asdict(replace(record, step=step)))

    def delete_step_outputs(self, step: str, *, scores: bool = True) -> None:
        """Delete the status file and the outputs of a step; without ``scores``, scores are kept for reuse."""
        self.status_file(step).unlink(missing_ok=True)
        self._progress_file(step).unlink(missing_ok=True)
        if step == "evaluate":
            for path in (*self.step_folder(step).glob("score-*.json"), self._verdict_file):
                path.unlink(missing_ok=True)
        if step.startswith("train-"):
            shutil.rmtree(self.step_folder(step), ignore_errors=True)
        elif step == "evaluate" and scores:
            for suffix in ("", *SUFFIXES.values()):
                shutil.rmtree(self.folder / f"evals{suffix}", ignore_errors=True)
            shutil.rmtree(self.retrieval_folder / self.FINAL_INDEX, ignore_errors=True)
        elif step == FORMATS and scores:
            for view in self.views:
                shutil.rmtree(view.format_scores_folder, ignore_errors=True)
        elif step == "report":
            for suffix in ("", *SUFFIXES.values()):
                for ending in ("json", "html", "md"):
                    (self.folder / f"report{suffix}.{ending}").unlink(missing_ok=True)
        elif step == "data-embed":
            shutil.rmtree(self.retrieval_folder, ignore_errors=True)
            shutil.rmtree(self.embedder_folder, ignore_errors=True)
        elif step == "data":
            for split in ("train", "validation", "heldout", "rejected"):  # never source.*
                (self.folder / "data" / f"{split}.jsonl").unlink(missing_ok=True)

    def progress(self, step: str) -> Progress | None:
        """The last reported progress of a step; None without a readable one."""
        with contextlib.suppress(OSError, StudyError):
            progress: Progress = read_json(self._progress_file(step), Progress)
            return progress
        return None

    def write_progress(self, step: str, progress: Progress) -> None:
        """Report the progress of a step."""
        self._require_folder()
        write_json(self._progress_file(step), asdict(progress))

    def _progress_file(self, step: str) -> Path:
        name = self._own(step) if step.startswith("train-") else step
        return self.step_folder(step) / f"{name}.progress.json"

    # the first verdict

    @property
    def _verdict_file(self) -> Path:
        return self.step_folder("evaluate") / "evaluate.verdict.json"

    @property
    def first_verdict_seconds(self) -> float | None:
        """Seconds from the start of the run to the first verdict, the sum of the steps' times if it was resumed.

        None before it. In a study of an earlier release it came with the report.
        """
        if self._verdict_file.is_file():
            seconds: float = read_json(self._verdict_file, FirstVerdict)["seconds"]
            return seconds
        reported = self.step("report").state == "succeeded"
        return round(sum(self.step(step).seconds for step in self.steps), 3) if reported else None

    def record_first_verdict(self) -> None:
        """Record that this process, which evaluates the study, has written the first report, unless one was before."""
        if self._verdict_file.is_file():
            return
        begun, run = self.step("data").started, self.run_record()
        if run is not None and run["state"] == "running" and begun and begun >= run["time"]:
            seconds = time.time() - run["time"]
        else:
            seconds = sum(self.step(name).seconds for name in self.steps)
            seconds += time.time() - psutil.Process().create_time()
        write_json(self._verdict_file, {"seconds": round(seconds, 3)})

    # the run

    def write_run_record(
        self,
        state: State,
        error: AssistantBuilderError | None = None,
        queued_behind: Sequence[str] = (),
        dashboard: str = "",
    ) -> None:
        """Record this process as the run of the study (``run.json``): ``queued`` while it waits for other studies."""
        self._require_folder()
        record = {
            "state": state,
            "pid": os.getpid(),
            "process_started": process_identity(os.getpid()),
            "time": time.time(),
            "error": error.to_record() if error else None,
            "behind": list(queued_behind),
            "dashboard": dashboard,
        }
        write_json(self.folder / "run.json", record)

    def run_record(self) -> dict[str, Any] | None:
        """The last record of :meth:`write_run_record`; ``lost`` if its process is dead or the record is damaged."""
        path = self.folder / "run.json"
        if not path.exists():
            return None
        lost: dict[str, Any] = dict.fromkeys(("pid", "process_started", "error"))
        lost |= {"state": "lost", "time": 0.0, "behind": [], "dashboard": ""}
        try:
            record = read_json(path, RunRecord)
            if record["state"] in ("running", "queued") and not process_alive(
                record["pid"], record["process_started"]
            ):
                record["state"] = "lost"
            return {**lost, **record}
        except (OSError, StudyError):
            return lost

    @property
    def state(self) -> State:
        """State of the study: ``succeeded`` if all steps are, ``running`` if a step is running, else that of the run.

        A step can outlive the run that started it. A study is ``queued`` if it was never run, or if its run waits for
        other studies (:attr:`queued_behind`).
        """
        states: set[State] = {self.step(step).state for step in self.steps}
        shard_states = {self.step(shard).state for shard in self.shards}
        if self.queued_behind and "running" not in states:
            return "queued"
        if states == {"succeeded"}:
            return "succeeded"
        if "running" in states | shard_states:
            return "running"
        runner = self.run_record()
        if runner is None:
            return "queued"
        if runner["state"] not in ("lost", "succeeded"):
            return runner["state"]
        return next((state for state in _ENDED if state in states), "lost")

    @property
    def queued_behind(self) -> list[str]:
        """Names of the studies that this study's run waits for, the next to run first."""
        runner = self.run_record()
        return list(runner["behind"]) if runner is not None and runner["state"] == "queued" else []

    @property
    def dashboard(self) -> str:
        """URL of the dashboard of the cluster that runs the study; empty without one."""
        runner = self.run_record() or {"state": "lost"}
        return str(runner["dashboard"]) if runner["state"] == "running" else ""

    def status(self) -> dict[str, Any]:
        """The document that ``run --json`` and ``status --json`` print."""
        steps = []
        for record in map(self.step, self.shown_steps):
            seconds = round(record.seconds, 3)
            step: dict[str, Any] = {"name": record.step, "state": record.state, "seconds": seconds}
            steps.append({**step, "node": record.node} if record.node else step)
        return {
            "name": self.name,
            "state": self.state,
            "steps": steps,
            "folder": str(self.folder),
            "behind": self.queued_behind,
            "dashboard": self.dashboard,
            "first_verdict_seconds": self.first_verdict_seconds,
        }

    # disk space that is freed when the disk is full

    def reserve_disk_space(self) -> None:
        """Reserve a little disk space, so that errors can be recorded on a full disk."""
        self._require_folder()
        write_bytes(self.folder / _RESERVE, bytes(_RESERVE_BYTES))

    def release_disk_space(self) -> None:
        """Free the reserved disk space."""
        with contextlib.suppress(OSError):
            (self.folder / _RESERVE).unlink(missing_ok=True)

    # cancelling

    def request_cancel(self) -> None:
        """Ask the running step to stop after its current unit of work."""
        write_text(self.folder / _CANCEL, "")

    def clear_cancel(self) -> None:
        """Withdraw an earlier request."""
        (self.folder / _CANCEL).unlink(missing_ok=True)

    @property
    def cancel_requested(self) -> bool:
        """Whether the run was cancelled."""
        return (self.folder / _CANCEL).exists()

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if the run was cancelled."""
        if self.cancel_requested:
            raise Cancelled(
                m("cancelled on request"),
                remedy=m("Resume with 'assistant-builder run {name}'", name=self.name),
            )


def modified(path: Path) -> float:
    """When a file or folder was changed last; 0 if it is missing, or was deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
