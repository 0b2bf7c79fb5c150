"""Which steps of a study are done, which are stale and must run again, and how a step's process ended.

A finished step is stale when an input differs from the recorded one, or when a file that it made differs from the
recorded hash: a damaged adapter must not be scored as if it were complete.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from assistant_builder.atomic_io import file_hash
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled, ChangedInputsError, StudyError
from assistant_builder.runner.step_inputs import step_inputs
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord, changed_inputs, needed_before, steps_of

_MEMORY_SIGNALS = (-signal.SIGABRT, -9)
"""A library that cannot allocate memory aborts its process; the system ends one with signal 9."""


def first_stale_step(
    study: Study, *, redo: bool, config: StudyConfig | None = None, source: Path | None = None
) -> str | None:
    """The first finished step whose inputs changed or whose files are damaged; None if there is none.

    Args:
        study: The study.
        redo: Whether it may be run again.
        config: Settings to assume instead of the study's own.
        source: Data file to assume instead of the study's own.

    Raises:
        ChangedInputsError: The inputs of a finished step changed, and ``redo`` is off.
        StudyError: Files or the status file of a step are damaged, and ``redo`` is off.
    """
    pending: set[str] = set()
    wanted = config or study.config
    steps = steps_of(wanted.seeds, wanted.arms)
    for step in steps:
        if pending.intersection(needed_before(step, steps)):
            return None
        try:
            record = study.step(step)
        except StudyError:
            if redo:
                return step
            raise
        if record.state != "succeeded":
            pending.add(step)
            continue
        damaged = damaged_outputs(study, record) if step != "report" else []  # a report is rendered again in seconds
        if damaged and not redo:
            raise _damage_error(record, damaged, study)
        if damaged:
            return step
        changes = changed_inputs(record.inputs, step_inputs(study, step, config=config, source=source))
        if changes and not redo:
            raise ChangedInputsError(step, changes, study.name)
        if changes:
            return step
    return None


def delete_stale_steps(study: Study, redo: bool) -> None:
    """Delete the outputs of the first stale step and of all later ones; reject stale steps unless ``redo`` is on.

    With ``redo``, a finished study without stale steps loses the outputs of all steps.
    """
    step = first_stale_step(study, redo=redo)
    if step is not None:  # scores record their own inputs, so they are deleted only if they are damaged
        _delete_from(study, step, scores=step == "evaluate" and bool(damaged_outputs(study, study.step(step))))
    elif redo and study.state == "succeeded":
        _delete_from(study, study.steps[0], scores=True)


def _delete_from(study: Study, step: str, *, scores: bool) -> None:
    for later in reversed(study.steps[study.steps.index(step):]):
        study.delete_step_outputs(later, scores=scores)


def delete_unreadable_steps(study: Study) -> None:
    """Delete the outputs of steps whose status files are unreadable; these steps start from the beginning."""
    for step in reversed(study.steps):
        try:
            study.step(step)
        except StudyError:
            study.delete_step_outputs(step)


def queue_if_stale(study: Study, step: str) -> bool:
    """Queue a step unless it is done, running or up to date, and delete what it made from other inputs.

    Returns:
        False if the step is done and up to date; True if it must run, or runs already.
    """
    record = study.step(step)
    if record.state == "running":
        return True
    inputs = step_inputs(study, step)
    changed = bool(changed_inputs(record.inputs, inputs))
    if record.state == "succeeded" and not changed and not damaged_outputs(study, record):
        return False
    if record.inputs and changed:
        study.delete_step_outputs(step, scores=False)
        record = StepRecord(step)
    study.write_step(replace(record, state="queued", inputs=inputs))
    return True


def raise_for_step_result(study: Study, step: str, returncode: int | None) -> None:
    """Raise the error with which a step ended, unless it succeeded or waits for the training of the other arm.

    Args:
        study: The study.
        step: The step, whose process has ended.
        returncode: Exit code of its process; None if an earlier run had started it.

    Raises:
        Cancelled: The step was cancelled.
        AssistantBuilderError: The step failed.
    """
    record = study.step(step)
    if record.state == "cancelled" or (study.cancel_requested and record.state != "succeeded"):
        study.write_step(replace(record, state="cancelled"))
        raise Cancelled("cancelled on request", where=f"step {step}",
                        remedy=f"Resume with 'assistant-builder run {study.name}'")
    if record.state == "failed" and record.error is not None:
        raise AssistantBuilderError(
            record.error["what"], where=record.error["where"] or f"step {step}", remedy=record.error["remedy"]
        )
    if record.state == "succeeded" or (record.state == "queued" and returncode == 0):
        return
    error = AssistantBuilderError(
        "its process, which an earlier run had started, exited without reporting a result" if returncode is None
        else f"its process was ended by signal {-returncode}" if returncode < 0
        else f"its process exited with code {returncode} without reporting a result",
        where=f"step {step}",
        remedy=("Most likely memory ran out: lower train.micro_batch_size or eval.batch_size. "
                if returncode in _MEMORY_SIGNALS else "")
        + f"Run again to resume; the log is {study.log_file(step)}",
    )
    study.write_step(replace(record, state="failed", error=error.to_record()))
    raise error


def damaged_outputs(study: Study, record: StepRecord) -> list[str]:
    """Paths below the study folder of files that a finished step made and that are missing or changed."""
    return [name for name, digest in record.outputs.items() if _hash_of(study.folder / name) != digest]


def _damage_error(record: StepRecord, names: list[str], study: Study) -> StudyError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return StudyError(
        f"{names[0]}{more} is not as step {record.step!r} left it: damaged, changed or missing",
        where=f"study {study.name}",
        remedy="Put the file back from a copy, or pass --redo to run this step and all after it again",
    )


def _hash_of(path: Path) -> str | None:
    try:
        status = path.stat()
        return _cached_hash(path, (status.st_size, status.st_ctime_ns, status.st_ino))
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _cached_hash(path: Path, stamp: tuple[int, int, int]) -> str:
    """SHA-256 of a file; ``stamp`` identifies its version, so that an unchanged file is read once.

    The stamp contains the change time rather than the modification time, because programs cannot set it.
    """
    return file_hash(path)
