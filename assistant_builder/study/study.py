"""The study folder: its layout, and the files that record the state of the study and its steps.

Every file has one writer. A step writes its status file last, so ``succeeded`` in it is the done-marker.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import psutil

from assistant_builder.atomic_io import read_json, write_bytes, write_json, write_text
from assistant_builder.config import (
    BEFORE_APPROACHES,
    Approach,
    StudyConfig,
    load_config,
    name_and_title,
)
from assistant_builder.errors import (
    CHOOSE_NAME,
    AssistantBuilderError,
    Cancelled,
    ConfigError,
    StudyError,
)
from assistant_builder.i18n import ByPlace, m
from assistant_builder.study.containment import check_folder
from assistant_builder.study.contents import ArmSummary, FirstVerdict, ReportChoice
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
    approach_of_run,
    insert_shards,
    steps_of,
    suffix_of,
)

_STATUS_FILES: dict[str, str] = {
    "data": "data/status.json",
    "data-embed": "data/embed.status.json",
    "evaluate": "evals/status.json",
    "formats": "evals/formats.status.json",
    "report": "report.status.json",
}
_TEMPLATE_DATE = "template_date.json"
CHECKPOINT_MARKER = "complete.json"
"""File that is written last into a checkpoint; a checkpoint without it is incomplete."""
_ENDED: tuple[State, ...] = ("failed", "cancelled")
_RESERVE, _RESERVE_BYTES = ".reserve", 65_536
_CANCEL = "cancel"


def home() -> Path:
    """The folder of ``studies/`` and ``models/``, read from the environment at every call."""
    folder = Path(
        os.environ.get("ASSISTANT_BUILDER_HOME") or Path.home() / ".assistant-builder"
    ).expanduser()
    return folder.absolute()  # lm-eval loads and runs tasks in another working directory


def run_marker() -> Path:
    """File that a run touches when it begins, so that idle processes of the chat free their memory."""
    return home() / "queue" / "started"


def studies_folder() -> Path:
    """The folder that contains the study folders."""
    return home() / "studies"


class Study:
    """A study folder; :meth:`create` creates one and :meth:`open` finds one by name.

    A study with two approaches is seen through one of them: :meth:`of_approach` has the adapters, scores and report of
    that approach, and its settings name it alone. Without a choice it is the main approach, the first of the settings.
    """

    FINAL_INDEX = "final"
    """Folder within that of the index: the index with answers that were added after the evaluation."""

    def __init__(self, folder: Path, approach: Approach | None = None) -> None:
        self.folder = folder
        self.approach: Approach | None = approach
        self._suffix = "" if approach is None else suffix_of(approach, self._settings.approaches)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and (self.folder, self.approach) == (
            other.folder,
            other.approach,
        )

    def __hash__(self) -> int:
        return hash((self.folder, self.approach))

    def of_approach(self, approach: Approach) -> Study:
        """The study as seen through one of its approaches.

        Raises:
            ConfigError: The study does not have it.
        """
        known = self._settings.approaches
        if approach not in known:
            raise ConfigError(
                m(
                    "the {study} has only the {known} approach and not {approach}",
                    known=known[0],
                    approach=approach,
                ),
                where=m("{study} {name}", name=self.name),
                remedy=m(
                    "Train it with 'assistant-builder run {name} --set approaches={value}'",
                    name=self.name,
                    value=",".join([*known, approach]),
                ),
            )
        return Study(self.folder, approach)

    def of_choice(self, approach: Approach | None) -> Study:
        """The study as seen through an approach, or through the recommended one if none is chosen.

        Raises:
            ConfigError: The study does not have it.
        """
        return self.recommended if approach is None else self.of_approach(approach)

    def of_run(self, run: str) -> Study:
        """The study as seen through the approach of a training run."""
        return Study(self.folder, approach_of_run(run, self._settings.approaches))

    @property
    def views(self) -> list[Study]:
        """The study as seen through each of its approaches, the main one first."""
        return [Study(self.folder, approach) for approach in self._settings.approaches]

    @property
    def recommended(self) -> Study:
        """The study as seen through the approach that its report recommends; before there is one, the main approach."""
        known, path = self._settings.approaches, self.folder / "report.json"
        found = None
        if len(known) > 1 and path.is_file():
            found = read_json(path, ReportChoice).get("recommended_approach")
        return Study(self.folder, found if found in known else known[0])

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
            (_modified(path.parent), path.parent)
            for path in studies_folder().glob("[!.]*/study.yaml")
        ]
        return [Study(folder) for _, folder in sorted(found, key=lambda entry: -entry[0])]

    # layout

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self.folder.name

    @property
    def title(self) -> str:
        """What people call the study; its name if it has no title or its settings are damaged."""
        try:
            return self._settings.shown_name
        except AssistantBuilderError:
            return self.name

    @property
    def config(self) -> StudyConfig:
        """The validated config, read from ``study.yaml`` again whenever the file has changed."""
        return (
            self._settings if self.approach is None else self._settings.of_approach(self.approach)
        )

    @property
    def _settings(self) -> StudyConfig:
        path = self.folder / "study.yaml"
        check_folder(self.folder)  # whatever is done with a study begins with its settings
        try:
            status = path.stat()
        except OSError:
            return load_config(path, absent=BEFORE_APPROACHES)  # its error says what is wrong
        return _read_settings(path, status.st_mtime_ns, status.st_size, status.st_ino)

    def write_config(self, config: StudyConfig) -> None:
        """Replace ``study.yaml``; seen through one approach, the study keeps the other one."""
        if self.approach is not None:
            config = config.model_copy(update={"approaches": self._settings.approaches})
        write_text(self.folder / "study.yaml", config.to_yaml())

    @property
    def source(self) -> Path | None:
        """The study's own copy of the data file."""
        return next(iter(sorted((self.folder / "data").glob("source.*"))), None)

    def split_file(self, split: Literal["train", "validation", "heldout", "rejected"]) -> Path:
        """``data/<split>.jsonl``; nothing reads ``heldout`` before the evaluation."""
        return self.folder / "data" / f"{split}.jsonl"

    @property
    def embedding_file(self) -> Path:
        """``data/embedding.json``: held-out questions that leak into training by their embeddings."""
        return self.folder / "data" / "embedding.json"

    @property
    def retrieval_folder(self) -> Path:
        """``retrieval/``: the index of the training pairs and its recall; missing in studies of 0.1."""
        return self.folder / "retrieval"

    @property
    def embedder_folder(self) -> Path:
        """``embedder/``: the sentence embedder of the index, if it was trained on the study's questions."""
        return self.folder / "embedder"

    def arm_folder(self, run: str) -> Path:
        """``arms/<run>``: config.json status.json metrics.jsonl log.txt checkpoints/ adapter/."""
        return self.folder / "arms" / self._own(run)

    def arm_summary(self, run: str) -> dict[str, Any]:
        """``arms/<run>/summary.json``: what the training was and took."""
        summary: dict[str, Any] = read_json(self.arm_folder(run) / "summary.json", ArmSummary)
        return summary

    def _own(self, name: str) -> str:
        return name if name.endswith(tuple(SUFFIXES.values())) else name + self._suffix

    @property
    def evals_folder(self) -> Path:
        """``evals/``: all scores; ``evals+memory/`` if that is not the main approach."""
        return self.folder / f"evals{self._suffix}"

    @property
    def formats_folder(self) -> Path:
        """``formats``: the GGUF files that the study is scored and served with."""
        return self.folder / f"formats{self._suffix}"

    @property
    def format_scores_folder(self) -> Path:
        """``evals/formats``: scores of the GGUF files, in a folder for each."""
        return self.evals_folder / "formats"

    def export_folder(self, name: str) -> Path:
        """``exports/<name>``: an export that the page made."""
        return self.folder / "exports" / f"{name}{self._suffix}"

    @property
    def report_file(self) -> Path:
        """``report.json``: the report of this approach, which is the main file for the recommended one."""
        if self.approach is None or self.recommended.approach == self.approach:
            return self.folder / "report.json"
        return self.folder / f"report{SUFFIXES[self.approach]}.json"

    def cell_folder(self, cell: str, *, seed: int = 1) -> Path:
        """``evals/<cell>``, for later seeds ``evals/seeds/<seed>/<cell>``: samples.jsonl scores.json."""
        folder = self.evals_folder
        return folder / cell if seed == 1 else folder / "seeds" / str(seed) / cell

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of this study in execution order."""
        return steps_of(self._settings)

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards of the evaluation that a cluster scores in parallel: ``score-1``, …; empty without a cluster.

        They are not steps of the study: the evaluation validates their files, and ignores them after it has succeeded.
        """
        return tuple(f"score-{shard}" for shard in range(1, self.config.evaluation_shards + 1))

    @property
    def shown_steps(self) -> tuple[str, ...]:
        """The steps and the started shards; after the evaluation has succeeded, only the shards that succeeded."""
        shards = [shard for shard in self.shards if self.status_file(shard).exists()]
        if self.step("evaluate").state == "succeeded":
            shards = [shard for shard in shards if self.step(shard).state == "succeeded"]
        return insert_shards(self.steps, shards)

    @property
    def serves_corrections(self) -> bool:
        """Whether corrections are served at once: facts are looked up by its assistants, or before training copied."""
        trained = any((self.arm_folder(arm) / "summary.json").is_file() for arm in self.config.arms)
        return self.config.grounded or not trained

    @property
    def corrections_file(self) -> Path:
        """``corrections.jsonl``: answers that were corrected, in the chat or the inbox."""
        return self.folder / "corrections.jsonl"

    def status_file(self, step: str) -> Path:
        """The status file of a step."""
        if step.startswith("train-"):
            return self.arm_folder(step.removeprefix("train-")) / "status.json"
        return self.folder / (_STATUS_FILES.get(step) or f"evals/{step}.status.json")

    def step_folder(self, step: str) -> Path:
        """The folder of the step's status file."""
        return self.status_file(step).parent

    def log_file(self, step: str) -> Path:
        """Standard output and error of the step's process."""
        folder = self.step_folder(step)
        return folder / ("log.txt" if step.startswith("train-") else f"{step}.log.txt")

    def lease_file(self, step: str) -> Path:
        """The lease of the cluster node that runs the step."""
        return self.step_folder(step) / f"{step}.lease.json"

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


@functools.lru_cache(maxsize=64)
def _read_settings(path: Path, *status: int) -> StudyConfig:
    """The settings of a file; parsing YAML takes milliseconds, and the page needs them dozens of times a second.

    The name is that of the folder: with another one, changes of this study would be made to the other study.
    """
    return load_config(path, absent=BEFORE_APPROACHES).model_copy(update={"name": path.parent.name})


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # deleted since it was listed
        return 0.0
