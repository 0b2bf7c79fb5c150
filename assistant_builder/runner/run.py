"""A run of a study from start to end, on any runner."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial

from assistant_builder.child_process import (
    compute_environment,
    lower_priority,
    python_command,
    python_environment,
    start_program,
)
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import (
    AssistantBuilderError,
    Cancelled,
    ChangedInputsError,
    StudyError,
)
from assistant_builder.i18n import m
from assistant_builder.models.remote_code import VARIABLE as TRUST_VARIABLE
from assistant_builder.runner.backend import QUEUE, Event, open_runner, waiting_message
from assistant_builder.runner.invalidation import (
    delete_stale_steps,
    delete_unreadable_steps,
    first_stale_step,
    raise_for_step_result,
)
from assistant_builder.runner.step_process import step_command
from assistant_builder.study import Study
from assistant_builder.study.addresses import require_allowed
from assistant_builder.study.steps import Progress


def start_run(name: str, *, redo: bool = False, now: bool = False, trust: bool = False) -> int:
    """Start ``assistant-builder run NAME`` as a process of low priority that outlives this one; returns its id.

    ``trust`` is whether the user allowed the base model's own code for this run; the permission of this process is not
    inherited.
    """
    study = Study.open(name)
    options = {"--redo": redo, "--now": now, "--trust-remote-code": trust}
    flags = [flag for flag, on in options.items() if on]
    environment = python_environment()
    environment.pop(TRUST_VARIABLE, None)
    try:
        with (study.folder / "run.log.txt").open("ab") as log:
            command = python_command("-m", "assistant_builder", "run", name, *flags)
            process = start_program(command, environment, log)
    except OSError as error:
        raise translate_error(error) from error
    lower_priority(process.pid)
    return process.pid


def run_study(
    study: Study,
    *,
    redo: bool = False,
    now: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    check: Callable[[Study], None] = lambda study: None,
) -> None:
    """Run every step that is not done, in order, after the earlier runs of other studies (``now``: at once).

    ``redo`` runs the first stale step and all later ones again; without stale steps, all steps. ``check`` is called
    before any step is run or deleted, and raises errors that a later step would raise.

    Raises:
        ConfigError: The user has not allowed an address of the settings.
        StudyError: Another process runs the study, or files of a finished step are damaged and ``redo`` is off.
        ChangedInputsError: The inputs of a finished step changed, and ``redo`` is off.
        StoreError: The store does not answer; the results are on this machine.
        AssistantBuilderError: A step failed.
        Cancelled: The user cancelled the run.
    """
    require_allowed(study.config.addresses)
    with study.lock():
        try:
            study.reserve_disk_space()
            study.clear_cancel()
            with open_runner(study) as runner:
                if redo:
                    delete_unreadable_steps(study)
                check(study)
                runner.check_resources(study)
                # raises for changed inputs before the run waits in the queue
                first_stale_step(study, redo=redo)
                waiting = partial(_report_queue, study, on_event)
                with runner.acquire(study, now=now, waiting=waiting):
                    delete_stale_steps(study, redo)
                    study.write_run_record("running", dashboard=runner.dashboard)
                    runner.run_steps(study, on_event)
            study.write_run_record("succeeded")
        except Cancelled:
            study.write_run_record("cancelled")
            raise
        except (AssistantBuilderError, OSError) as error:
            translated = translate_error(error)
            if not isinstance(translated, ChangedInputsError):
                study.release_disk_space()
                with contextlib.suppress(OSError, StudyError):  # the disk is full or read-only
                    study.write_run_record("failed", translated)
            raise translated from error
        finally:
            study.release_disk_space()
            with contextlib.suppress(OSError):  # a read-only folder contains no request
                study.clear_cancel()


def rerender_report(study: Study) -> None:
    """Run the report step of an evaluated study again, which takes a few seconds.

    The report contains the study's name and its blind votes, which are not inputs of the step.

    Raises:
        StudyError: The study is not evaluated, or it is running.
        ChangedInputsError: The settings changed after the evaluation.
    """
    if study.step("evaluate").state != "succeeded":
        raise StudyError(
            m("the {study} has not been evaluated"),
            where=m("{study} {name}", name=study.name),
            remedy=m(
                "Finish it with 'assistant-builder run {name}', which also writes the report",
                name=study.name,
            ),
        )
    first_stale_step(study, redo=False)
    running = StudyError(
        m("the {study} is running"),
        where=m("{study} {name}", name=study.name),
        remedy=m("Wait until it is done; the run writes the report"),
    )
    with study.lock(running), study.log_file("report").open("ab") as log:
        process = subprocess.run(
            step_command(study, "report"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=compute_environment(),
            check=False,
        )
        raise_for_step_result(study, "report", process.returncode)


def _report_queue(
    study: Study, on_event: Callable[[Event], None], queued_behind: list[str]
) -> None:
    """Report the studies that the run waits for; an empty list when it proceeds."""
    study.raise_if_cancelled()
    if queued_behind and study.queued_behind != queued_behind:
        study.write_run_record("queued", queued_behind=queued_behind)
    progress = Progress.saying(0, 0, "runs", waiting_message(queued_behind))
    on_event(Event(QUEUE, "queued" if queued_behind else "succeeded", progress))
