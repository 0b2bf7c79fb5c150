"""The study folder: where everything lives, and how the state of each step is told from files.

Every file has one writer. The done-marker of a step (its status file) is written last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

from assistant_builder.atomic_io import read_json, write_bytes, write_json, write_text
from assistant_builder.config import StudyConfig, check_name, load_config
from assistant_builder.errors import AssistantBuilderError, Cancelled, StudyError
from assistant_builder.leases import is_fresh
from assistant_builder.steps import Progress, State, StepRecord, process_alive, process_mark, steps_of, with_parts

_STATUS_FILES: dict[str, str] = {
    "data": "data/status.json",
    "data-embed": "data/embed.status.json",
    "evaluate": "evals/status.json",
    "report": "report.status.json",
}
_TEMPLATE_DATE = "template_date.json"
CHECKPOINT_MARKER = "complete.json"
"""The file that is written last into a checkpoint, which counts only with it."""
_ENDED: tuple[State, ...] = ("failed", "cancelled")
_RESERVE_BYTES = 65_536


def home() -> Path:
    """The folder that holds ``studies/`` and ``models/``; read from the environment at every call."""
    folder = Path(os.environ.get("ASSISTANT_BUILDER_HOME") or Path.home() / ".assistant-builder").expanduser()
    return folder.absolute()  # lm-eval's tasks are loaded and run in another current folder


def run_marker() -> Path:
    """The file that a run touches when it begins on this machine; processes that only keep models loaded end then."""
    return home() / "queue" / "started"


def studies_folder() -> Path:
    """The folder that holds one folder a study."""
    return home() / "studies"


class Study:
    """One study folder.

    Args:
        folder: The folder; :meth:`create` makes one, :meth:`open` finds one by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _require_folder(self) -> None:
        """Raise unless the study is still there: what is written after that would make a ruin in its place."""
        if not (self.folder / "study.yaml").is_file():
            raise StudyError(
                f"the folder of study {self.name} is gone", where=str(self.folder),
                remedy="Put it back where it was, or connect its disk again; then run again, and it carries on",
            )

    # opening and creating

    @classmethod
    def create(cls, config: StudyConfig, source: Path | None = None) -> Study:
        """Make the folder of a new study, whole or not at all.

        Args:
            config: The validated config; its ``name`` names the folder.
            source: The data file, copied into the study so that the study stands alone.

        Raises:
            StudyError: A study of that name exists, or the folder cannot be written.
        """
        folder = studies_folder() / config.name
        if folder.exists():
            raise StudyError(
                f"a study named {config.name!r} exists already", where=str(folder),
                remedy="Choose another name with --name NEW, or carry on with 'assistant-builder run "
                f"{config.name}'",
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
            try:
                (scratch / "data").mkdir()
                if source is not None:
                    shutil.copyfile(source, scratch / "data" / f"source{source.suffix.lower()}")
                write_text(scratch / "study.yaml", config.to_yaml())
                os.chmod(scratch, 0o755)
                os.rename(scratch, folder)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        except OSError as error:
            raise StudyError(
                f"the study cannot be created: {error.strerror}", where=str(folder),
                remedy="Free space or set ASSISTANT_BUILDER_HOME to a folder you may write to",
            ) from error
        return cls(folder)

    @classmethod
    def open(cls, name: str) -> Study:
        """Find a study by name.

        Raises:
            StudyError: There is none of that name.
        """
        try:
            folder = studies_folder() / check_name(name)
        except ValueError as error:
            raise StudyError(f"{name!r} names no study: {error}") from error
        if not (folder / "study.yaml").is_file():
            names = [study.name for study in Study.all()]
            known = f"There are: {', '.join(names)}" if names else "There are none yet: 'assistant-builder run FILE'"
            raise StudyError(f"no study named {name!r}", where=str(studies_folder()), remedy=known)
        return cls(folder)

    @staticmethod
    def all() -> list[Study]:
        """Every study, the last changed first."""
        found = [(_changed(path.parent), path.parent) for path in studies_folder().glob("[!.]*/study.yaml")]
        return [Study(folder) for _, folder in sorted(found, key=lambda entry: -entry[0])]

    # what is where

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self.folder.name

    @property
    def config(self) -> StudyConfig:
        """The validated config, read anew at every access."""
        return load_config(self.folder / "study.yaml")

    def write_config(self, config: StudyConfig) -> None:
        """Replace ``study.yaml``."""
        write_text(self.folder / "study.yaml", config.to_yaml())

    @property
    def source(self) -> Path | None:
        """The study's own copy of the data file."""
        return next(iter(sorted((self.folder / "data").glob("source.*"))), None)

    def split_file(self, split: Literal["train", "validation", "heldout", "rejected"]) -> Path:
        """``data/<split>.jsonl``; ``heldout`` is read by nothing before evaluation."""
        return self.folder / "data" / f"{split}.jsonl"

    def arm_folder(self, run: str) -> Path:
        """``arms/<run>``: config.json status.json metrics.jsonl log.txt checkpoints/ adapter/."""
        return self.folder / "arms" / run

    def cell_folder(self, cell: str, *, seed: int = 1) -> Path:
        """``evals/<cell>``, for later seeds ``evals/seeds/<seed>/<cell>``: samples.jsonl scores.json."""
        folder = self.folder / "evals"
        return folder / cell if seed == 1 else folder / "seeds" / str(seed) / cell

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of this study in order of running."""
        config = self.config
        return steps_of(config.seeds, config.arms)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the evaluation that a cluster computes at once, before it: ``score-1``, …; else none.

        They are no steps: nothing vouches for what they make but the evaluation, which looks it over, and once that is
        done they matter no more.
        """
        return tuple(f"score-{part}" for part in range(1, self.config.scorings + 1))

    @property
    def shown_steps(self) -> tuple[str, ...]:
        """The steps, and the parts of the evaluation that a cluster has begun; once it is done, those that are too."""
        done = self.step("evaluate").state == "succeeded"
        return with_parts(self.steps, [
            part for part in self.parts
            if self.status_file(part).exists() and (not done or self.step(part).state == "succeeded")
        ])

    def status_file(self, step: str) -> Path:
        """The done-marker of a step."""
        if step.startswith("train-"):
            return self.arm_folder(step.removeprefix("train-")) / "status.json"
        return self.folder / (_STATUS_FILES.get(step) or f"evals/{step}.status.json")

    def step_folder(self, step: str) -> Path:
        """The folder in which the step's status file lies."""
        return self.status_file(step).parent

    def log_file(self, step: str) -> Path:
        """Standard output and error of the step's process."""
        folder = self.step_folder(step)
        return folder / ("log.txt" if step.startswith("train-") else f"{step}.log.txt")

    def lease_file(self, step: str) -> Path:
        """Who runs the step on a node of a cluster; there only while somebody does."""
        return self.step_folder(step) / f"{step}.lease.json"

    # the date in its prompts

    @property
    def template_date(self) -> date:
        """What chat templates write in this study's prompts where they ask for today's date.

        That of the study's first step (see :meth:`keep_template_date`). A study of before it was written down has the
        day on which its first training began, else the day on which its data were prepared; one that has not begun has
        the current day.

        Raises:
            StudyError: The file of the date is damaged.
        """
        path = self.folder / _TEMPLATE_DATE
        if path.is_file():
            try:
                return date.fromisoformat(read_json(path)["date"])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise StudyError(
                    "the file holds no date", where=str(path),
                    remedy='Write {"date": "YYYY-MM-DD"} into it, with the day on which the study was trained',
                ) from error
        for steps in ([step for step in self.steps if step.startswith("train-")], ["data"]):
            times = [self.step(step).started for step in steps]
            begun = [when for when in times if isinstance(when, int | float) and 0 < when < time.time()]
            if begun:
                return date.fromtimestamp(min(begun))
        return date.today()

    def keep_template_date(self, like: Study | None = None) -> date:
        """The same, written down so that every later prompt of the study has it; steps call this before they render.

        Args:
            like: A study with which this one will be compared, and whose date it takes unless it has its own.
        """
        if like is not None and not (self.folder / _TEMPLATE_DATE).exists():
            day = like.template_date
        else:
            day = self.template_date
        if not (self.folder / _TEMPLATE_DATE).exists():
            self._require_folder()
            with contextlib.suppress(OSError):  # a folder that can only be read: what is recorded gives the same again
                write_json(self.folder / _TEMPLATE_DATE, {"date": day.isoformat()})
        return day

    # steps

    def step(self, step: str) -> StepRecord:
        """The record of a step as it stands now: ``running`` by a dead process, or on a lost node, is ``lost``.

        A part of the evaluation whose record cannot be read has none; nothing depends on it.

        Raises:
            StudyError: The record of a step cannot be read.
        """
        try:
            return self._recorded(step)
        except StudyError:
            if step.startswith("score-"):
                return StepRecord(step)
            raise

    def _recorded(self, step: str) -> StepRecord:
        path = self.status_file(step)
        if not path.exists():
            return StepRecord(step)
        tree = read_json(path)
        try:
            record = StepRecord(**tree)
        except TypeError as error:
            raise _unreadable_status(path) from error
        if record.state not in get_args(State) or record.step != step:
            raise _unreadable_status(path)
        if record.state == "running" and not self._computes(record):
            return StepRecord(**{**tree, "state": "lost"})
        return record

    def _computes(self, record: StepRecord) -> bool:
        """Whether the process that wrote a record lives; what runs on another node is told by who watches it there."""
        if record.node is not None:
            return is_fresh(self.lease_file(record.step))
        return process_alive(record.pid, record.process_started)

    def write_step(self, record: StepRecord) -> None:
        """Write the status file of a step; for ``succeeded`` this is the done-marker and comes last."""
        self._require_folder()
        write_json(self.status_file(record.step), asdict(record))

    def forget_step(self, step: str, *, scores: bool = True) -> None:
        """Remove what the step made, its done-marker first.

        Args:
            step: The step.
            scores: Whether scores go with it; those that stay are used again where they were made from the same inputs.
        """
        self.status_file(step).unlink(missing_ok=True)
        (self.step_folder(step) / f"{step}.progress.json").unlink(missing_ok=True)
        if step == "evaluate":
            for path in self.step_folder(step).glob("score-*.json"):
                path.unlink(missing_ok=True)
        if step.startswith("train-") or (step == "evaluate" and scores):
            shutil.rmtree(self.step_folder(step), ignore_errors=True)
        elif step == "report":
            for name in ("report.json", "report.html", "report.md"):
                (self.folder / name).unlink(missing_ok=True)
        elif step == "data":
            for split in ("train", "validation", "heldout", "rejected"):  # never source.*, which may be JSONL too
                self.split_file(split).unlink(missing_ok=True)

    def progress(self, step: str) -> Progress | None:
        """How far the step is, if it says so; nothing depends on it, so that a damaged file says nothing."""
        path = self.step_folder(step) / f"{step}.progress.json"
        try:
            return Progress(**read_json(path))
        except (OSError, StudyError, TypeError):
            return None

    def write_progress(self, step: str, progress: Progress) -> None:
        """Say how far the step is."""
        self._require_folder()
        write_json(self.step_folder(step) / f"{step}.progress.json", asdict(progress))

    # the run as a whole

    @property
    def embedding_file(self) -> Path:
        """``data/embedding.json``: held-out questions whose embeddings say that they leak."""
        return self.folder / "data" / "embedding.json"

    def write_runner(
        self, state: State, error: AssistantBuilderError | None = None, behind: Sequence[str] = (), dashboard: str = "",
    ) -> None:
        """Say which process runs the study's steps, and how that stands (``run.json``).

        Args:
            state: How it stands; ``queued`` while it waits for other studies.
            error: What it failed with.
            behind: The studies it waits for, the next to run first.
            dashboard: URL of the page of the cluster that runs it; empty without one.
        """
        self._require_folder()
        write_json(
            self.folder / "run.json",
            {
                "state": state,
                "pid": os.getpid(),
                "process_started": process_mark(os.getpid()),
                "time": time.time(),
                "error": error.to_record() if error else None,
                "behind": list(behind),
                "dashboard": dashboard,
            },
        )

    def runner(self) -> dict[str, Any] | None:
        """The last record of :meth:`write_runner`; ``running`` by a dead process is ``lost``, and so is a damaged one.

        No result depends on it, and the next run writes it anew.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return None
        lost: dict[str, Any] = {
            "state": "lost", "pid": None, "process_started": None, "time": 0.0, "error": None, "behind": [],
            "dashboard": "",
        }
        try:
            record = read_json(path)
            if record["state"] in ("running", "queued") and not process_alive(record["pid"], record["process_started"]):
                record["state"] = "lost"
            return {**lost, **record} if record["state"] in get_args(State) else lost
        except (OSError, StudyError, KeyError, TypeError):
            return lost

    @property
    def state(self) -> State:
        """``succeeded`` once every step has, ``running`` while the process of one lives; else what the runner said.

        A step's process outlives a runner that was killed, so that it can be cancelled, or waited for by a new runner.
        ``queued`` is a study that was never run, and one whose runner waits for other studies (see :attr:`behind`).
        """
        states: set[State] = {self.step(step).state for step in self.steps}
        states_of_parts = {self.step(part).state for part in self.parts}
        if self.behind and "running" not in states:
            return "queued"
        if states == {"succeeded"}:
            return "succeeded"
        if "running" in states | states_of_parts:
            return "running"
        runner = self.runner()
        if runner is None:
            return "queued"
        if runner["state"] not in ("lost", "succeeded"):
            return runner["state"]
        return next((state for state in _ENDED if state in states), "lost")

    @property
    def behind(self) -> list[str]:
        """The studies that this one's runner waits for, the next to run first; empty unless it waits."""
        runner = self.runner()
        return list(runner.get("behind", ())) if runner is not None and runner["state"] == "queued" else []

    @property
    def dashboard(self) -> str:
        """URL of the page of the cluster that runs the study now; empty without one."""
        runner = self.runner()
        return str(runner["dashboard"]) if runner is not None and runner["state"] == "running" else ""

    def status(self) -> dict[str, Any]:
        """The document that ``run --json`` and ``status --json`` print."""
        records = [self.step(step) for step in self.shown_steps]
        return {
            "name": self.name,
            "state": self.state,
            "steps": [
                {"name": record.step, "state": record.state, "seconds": round(record.seconds, 3),
                 **({"node": record.node} if record.node else {})}
                for record in records
            ],
            "folder": str(self.folder),
            "behind": self.behind,
            "dashboard": self.dashboard,
        }

    # a full disk

    @property
    def _reserve(self) -> Path:
        return self.folder / ".reserve"

    def take_reserve(self) -> None:
        """Occupy a little disk, which is given back when the disk is full, so that this can be written down."""
        self._require_folder()
        write_bytes(self._reserve, bytes(_RESERVE_BYTES))

    def release_reserve(self) -> None:
        """Give the little disk back."""
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    # cancelling

    @property
    def _cancel_file(self) -> Path:
        return self.folder / "cancel"

    def request_cancel(self) -> None:
        """Ask the running step to stop; it looks between two pieces of work."""
        write_text(self._cancel_file, "")

    def clear_cancel(self) -> None:
        """Forget an earlier request; a new run starts with this."""
        self._cancel_file.unlink(missing_ok=True)

    @property
    def cancel_requested(self) -> bool:
        """Whether someone asked the run to stop."""
        return self._cancel_file.exists()

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if someone asked the run to stop."""
        if self.cancel_requested:
            raise Cancelled("cancelled on request", remedy=f"Carry on with 'assistant-builder run {self.name}'")


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # it was deleted a moment ago
        return 0.0


def _unreadable_status(path: Path) -> StudyError:
    return StudyError(
        "the status file is of another version or damaged", where=str(path),
        remedy="Run the study again with --redo to run that step anew",
    )
