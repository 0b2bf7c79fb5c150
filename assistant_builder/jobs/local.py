"""Run a study's steps on this machine, one process after the other."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled, ChangedInputsError, StudyError
from assistant_builder.jobs.integrity import damage, damaged_outputs, forget_unreadable
from assistant_builder.jobs.queue import our_turn
from assistant_builder.jobs.steps import command, step_inputs
from assistant_builder.mishaps import explained
from assistant_builder.planning.fitting import require_study_fit
from assistant_builder.steps import Progress, State, StepRecord, changed_inputs, steps_of
from assistant_builder.study import Study
from assistant_builder.worker import child_environment, step_back

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 600.0
"""How long a cancelled step may take to finish what it is at before it is ended.

Ending it costs the work since its last checkpoint, which is at most about as much; an optimizer step of a large model
on a slow machine takes minutes, and is kept.
"""
_MEMORY_SIGNALS = (-signal.SIGABRT, -9)
"""Memory that a library cannot get ends its process with an abort; the system ends one with signal 9."""
WAITING = "queue"
"""The step that events name while a run waits for its turn."""


@dataclass(frozen=True)
class Event:
    """What happened in a run.

    Attributes:
        step: The step it happened in.
        state: State of the step now.
        progress: How far the step is, if it says so.
        kept: The step was done before and is not run again.
    """

    step: str
    state: State
    progress: Progress | None = None
    kept: bool = False


def start_run(name: str, *, redo: bool = False, now: bool = False) -> int:
    """Start ``assistant-builder run NAME`` as a process that outlives this one and gives way to it.

    Returns:
        Its process id. How it fares is told by the files of the study.
    """
    study = Study.open(name)
    flags = [*(["--redo"] if redo else []), *(["--now"] if now else [])]
    words = [sys.executable, "-m", "assistant_builder", "run", name, *flags]
    try:
        with (study.folder / "run.log.txt").open("ab") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        raise explained(error) from error
    step_back(process.pid)
    return process.pid


def run_study(
    study: Study, *, redo: bool = False, now: bool = False, on_event: Callable[[Event], None] = lambda event: None,
    check: Callable[[Study], None] = lambda study: None,
) -> None:
    """Run every step that is not done, in order, once the runs of other studies that came before are done.

    Args:
        study: The study.
        redo: Run steps whose inputs changed, and all after them, again; where none changed, run all of them again.
        now: Do not wait for the runs of other studies.
        on_event: Told what happens.
        check: Called before anything is run or given up; raises what would make a later step fail.

    Raises:
        StudyError: Another process runs the study, its folder cannot be written to, or a finished step's files are
            damaged and ``redo`` is off.
        ChangedInputsError: A finished step was made from other inputs, and ``redo`` is off.
        ResourceError: Its training cannot fit the memory of this machine, or disk or memory ran out.
        AssistantBuilderError: A step failed, with its reason.
        Cancelled: The user asked for it.
    """
    with held(study):
        try:
            study.take_reserve()
            study.clear_cancel()
            if redo:
                forget_unreadable(study)
            check(study)
            require_study_fit(study)
            first_changed(study, redo=redo)  # refused before it waits
            with our_turn(study, now=now, waiting=lambda names: _wait(study, names, on_event)):
                _prepare(study, redo)
                study.write_runner("running")
                _run_all(study, on_event)
            study.write_runner("succeeded")
        except Cancelled:
            study.write_runner("cancelled")
            raise
        except (AssistantBuilderError, OSError) as error:
            told = explained(error)
            if not isinstance(told, ChangedInputsError):
                _note_failure(study, told)
            raise told from error
        finally:
            study.release_reserve()
            with contextlib.suppress(OSError):  # a folder that cannot be written to holds no request either
                study.clear_cancel()


@contextmanager
def held(study: Study) -> Iterator[None]:
    """Hold a study for this process alone; the system lets go of it where the process dies.

    Raises:
        StudyError: Another process runs the study, or its folder cannot be written to.
    """
    lock = FileLock(study.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(
            "another process runs this study", where=f"study {study.name}",
            remedy=f"Watch it with 'assistant-builder status {study.name}' or stop it with "
            f"'assistant-builder cancel {study.name}'",
        ) from None
    except OSError as error:
        raise explained(error) from error
    try:
        yield
    finally:
        lock.release()


def _note_failure(study: Study, error: AssistantBuilderError) -> None:
    """Write down what ended the run, as far as the disk lets us: the caller raises it in any case."""
    study.release_reserve()
    with contextlib.suppress(OSError, StudyError):
        study.write_runner("failed", error)


def _wait(study: Study, before: list[str], on_event: Callable[[Event], None]) -> None:
    """Say whom the run waits for; with nobody left, that it goes on."""
    study.raise_if_cancelled()
    runner = study.runner()
    if before and (runner is None or runner["state"] != "queued" or runner.get("behind") != before):
        study.write_runner("queued", behind=before)
    on_event(Event(WAITING, "queued" if before else "succeeded", Progress(0, 0, "runs", waiting_sentence(before))))


def waiting_sentence(before: list[str]) -> str:
    """``waits for study rivers and 2 more``.

    Args:
        before: Names of the studies before, the one that runs first.
    """
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    return f"waits for study {before[0]}{more}" if before else ""


def _prepare(study: Study, redo: bool) -> None:
    """Refuse finished steps with other inputs, or make room for running them again."""
    step = first_changed(study, redo=redo)
    if step is not None:  # scores go only where they are what is damaged: they know themselves what they were made from
        _forget_from(study, step, scores=step == "evaluate" and bool(damaged_outputs(study, study.step(step))))
    elif redo and study.state == "succeeded":
        _forget_from(study, study.steps[0], scores=True)


def first_changed(
    study: Study, *, redo: bool, config: StudyConfig | None = None, source: Path | None = None
) -> str | None:
    """The first finished step whose inputs are not those it was made from, or whose files are not as it left them.

    Args:
        study: The study.
        redo: Whether it may be run again.
        config: Settings to assume instead of the study's own.
        source: Data file to assume instead of the study's own.

    Raises:
        ChangedInputsError: There is one whose inputs changed, and ``redo`` is off.
        StudyError: There is one whose files are damaged, and ``redo`` is off; or a status file is.
    """
    for step in steps_of((config or study.config).seeds):
        try:
            record = study.step(step)
        except StudyError:
            if redo:
                return step
            raise
        if record.state != "succeeded":
            return None
        damaged = damaged_outputs(study, record) if step != "report" else []  # that one is written anew in seconds
        if damaged and not redo:
            raise damage(record, damaged, study)
        if damaged:
            return step
        changes = changed_inputs(record.inputs, step_inputs(study, step, config=config, source=source))
        if changes and not redo:
            raise ChangedInputsError(step, changes, study.name)
        if changes:
            return step
    return None


def _forget_from(study: Study, step: str, *, scores: bool = False) -> None:
    for later in reversed(study.steps[study.steps.index(step):]):
        study.forget_step(later, scores=scores)


def _run_all(study: Study, on_event: Callable[[Event], None]) -> None:
    waiting = list(study.steps)
    while waiting:
        for step in list(waiting):
            if step in ("evaluate", "report") and any(other.startswith("train-") for other in waiting):
                break  # with early stop the arms wait for each other, and what follows needs both
            kept = _kept(study, step)
            ours = kept or _run_step(study, step, on_event)
            record = study.step(step)
            if ours:  # else look once more: it may have been started with other settings than those of now
                on_event(Event(step, record.state, study.progress(step), kept=kept))
            if ours and record.state == "succeeded":
                waiting.remove(step)


def _kept(study: Study, step: str) -> bool:
    """Whether the step is done already; makes room for it if it was begun with other inputs."""
    record = study.step(step)
    if record.state != "running":
        inputs = step_inputs(study, step)
        if record.state == "succeeded" and record.inputs == inputs and not damaged_outputs(study, record):
            return True
        if record.inputs and record.inputs != inputs:
            study.forget_step(step, scores=False)
            record = StepRecord(step)
        study.write_step(replace(record, state="queued", inputs=inputs))
    return False


def _run_step(study: Study, step: str, on_event: Callable[[Event], None]) -> bool:
    """Run a step, or wait for the process of a run that died; returns whether this run started it."""
    process: subprocess.Popen[bytes] | None = None
    if study.step(step).state != "running":  # else its process outlived the one that started it: wait for it
        log_file = study.log_file(step)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command(study, step), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=child_environment(),
            )
        step_back(process.pid)
    cancelled_at: float | None = None
    while _alive(study, step, process):
        try:
            on_event(Event(step, "running", study.progress(step)))
            if study.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if process is not None and time.monotonic() - cancelled_at > _GRACE_SECONDS:
                    process.terminate()
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            study.request_cancel()
    _judge(study, step, process.returncode if process is not None else None)
    return process is not None


def _alive(study: Study, step: str, process: subprocess.Popen[bytes] | None) -> bool:
    return process.poll() is None if process is not None else study.step(step).state == "running"


def _judge(study: Study, step: str, returncode: int | None) -> None:
    """Raise what a step's process ended with, unless it is done or waits for its twin."""
    record = study.step(step)
    if record.state == "cancelled" or (study.cancel_requested and record.state != "succeeded"):
        study.write_step(replace(record, state="cancelled"))
        raise Cancelled("cancelled on request", where=f"step {step}",
                        remedy=f"Carry on with 'assistant-builder run {study.name}'")
    if record.state == "failed" and record.error is not None:
        raise AssistantBuilderError(
            record.error["what"], where=record.error["where"] or f"step {step}", remedy=record.error["remedy"]
        )
    if record.state == "succeeded" or (record.state == "queued" and returncode == 0):
        return
    error = AssistantBuilderError(
        "its process, which an earlier run had started, is gone without a word" if returncode is None
        else f"its process was ended by signal {-returncode}" if returncode < 0
        else f"its process ended with code {returncode} and no word",
        where=f"step {step}",
        remedy=("Most likely memory ran out: lower train.micro_batch_size or eval.batch_size. "
                if returncode in _MEMORY_SIGNALS else "")
        + f"Running again carries on; the log is {study.log_file(step)}",
    )
    study.write_step(replace(record, state="failed", error=error.to_record()))
    raise error

