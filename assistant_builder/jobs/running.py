"""A run of a study from its start to its end, whatever runs its steps."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from assistant_builder.child_process import python_command, python_environment
from assistant_builder.config import ExecutorConfig
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled, ChangedInputsError, StudyError
from assistant_builder.jobs.cluster import RayRunner
from assistant_builder.jobs.events import WAITING, Event, waiting_sentence
from assistant_builder.jobs.integrity import forget_unreadable
from assistant_builder.jobs.local import LocalRunner
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.standing import first_changed, prepare_steps
from assistant_builder.jobs.storing import kept_in_store
from assistant_builder.models.remote_code import VARIABLE as TRUST_VARIABLE
from assistant_builder.steps import Progress
from assistant_builder.study import Study
from assistant_builder.worker import step_back


class Runner(Protocol):
    """Runs the steps of a study somewhere: the same commands, and the same files to tell how they stand."""

    @property
    def dashboard(self) -> str:
        """URL of a page that shows the machines at work, known once there is room there; empty without one."""

    def require_room(self, study: Study) -> None:
        """Refuse a study that could never run there.

        Raises:
            AssistantBuilderError: What is lacking.
        """

    def turn(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Hold what is given to one study at a time; see :func:`our_turn`."""

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done.

        Raises:
            AssistantBuilderError: A step failed, with its reason.
            Cancelled: The user asked for it.
        """


def runner_of(executor: ExecutorConfig, mirror: Mirror | None = None) -> Runner:
    """What runs steps as the settings say; ``mirror`` is the study's folder and its store, where it has one."""
    return RayRunner(executor, mirror) if executor.kind == "ray" else LocalRunner()


def start_run(name: str, *, redo: bool = False, now: bool = False, trust: bool = False) -> int:
    """Start ``assistant-builder run NAME`` as a process that outlives this one and gives way to it.

    Args:
        name: The study.
        redo: Whether finished steps may be run again.
        now: Whether to go ahead although other studies run.
        trust: Whether the user allowed the base model's own code for this run. What this process allows does not count.

    Returns:
        Its process id. How it fares is told by the files of the study.
    """
    study = Study.open(name)
    wanted = {"--redo": redo, "--now": now, "--trust-remote-code": trust}
    flags = [flag for flag, asked in wanted.items() if asked]
    words = python_command("-m", "assistant_builder", "run", name, *flags)
    try:
        with (study.folder / "run.log.txt").open("ab") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={key: value for key, value in python_environment().items() if key != TRUST_VARIABLE},
            )
    except OSError as error:
        raise translate_error(error) from error
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
        StoreError: Its store does not answer; what was computed is here.
        ResourceError: Its training cannot fit the memory there is, or disk or memory ran out.
        AssistantBuilderError: A step failed, with its reason.
        Cancelled: The user asked for it.
    """
    with held(study):
        try:
            study.take_reserve()
            study.clear_cancel()
            with kept_in_store(study) as mirror:
                if redo:
                    forget_unreadable(study)
                check(study)
                runner = runner_of(study.config.executor, mirror)
                runner.require_room(study)
                first_changed(study, redo=redo)  # refused before it waits
                with runner.turn(study, now=now, waiting=lambda names: _wait(study, names, on_event)):
                    prepare_steps(study, redo)
                    study.write_runner("running", dashboard=runner.dashboard)
                    runner.run_steps(study, on_event)
            study.write_runner("succeeded")
        except Cancelled:
            study.write_runner("cancelled")
            raise
        except (AssistantBuilderError, OSError) as error:
            told = translate_error(error)
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
    with locked(study.folder, StudyError(
        "another process runs this study", where=f"study {study.name}",
        remedy=f"Watch it with 'assistant-builder status {study.name}' or stop it with "
        f"'assistant-builder cancel {study.name}'",
    )):
        yield


@contextmanager
def locked(folder: Path, taken: StudyError) -> Iterator[None]:
    """Hold a folder for this process alone.

    Args:
        folder: The folder.
        taken: Raised where another process holds it.

    Raises:
        StudyError: It is ``taken``, or the folder cannot be written to.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise taken from None
    except OSError as error:
        raise translate_error(error) from error
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
