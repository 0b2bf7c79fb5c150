"""How the steps of a study stand: which are done, which have to be done again, and what a step's process ended with."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled, ChangedInputsError, StudyError
from assistant_builder.jobs.integrity import damage, damaged_outputs
from assistant_builder.jobs.steps import step_inputs
from assistant_builder.steps import StepRecord, changed_inputs, needed_before, steps_of
from assistant_builder.study import Study

_MEMORY_SIGNALS = (-signal.SIGABRT, -9)
"""Memory that a library cannot get ends its process with an abort; the system ends one with signal 9."""


def prepare_steps(study: Study, redo: bool) -> None:
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
    undone: set[str] = set()
    wanted = config or study.config
    steps = steps_of(wanted.seeds, wanted.arms)
    for step in steps:
        if undone.intersection(needed_before(step, steps)):
            return None
        try:
            record = study.step(step)
        except StudyError:
            if redo:
                return step
            raise
        if record.state != "succeeded":
            undone.add(step)
            continue
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


def kept(study: Study, step: str) -> bool:
    """Whether the step is done already; makes room for it if it was begun with other inputs."""
    record = study.step(step)
    if record.state != "running":
        inputs = step_inputs(study, step)
        changed = bool(changed_inputs(record.inputs, inputs))
        if record.state == "succeeded" and not changed and not damaged_outputs(study, record):
            return True
        if record.inputs and changed:
            study.forget_step(step, scores=False)
            record = StepRecord(step)
        study.write_step(replace(record, state="queued", inputs=inputs))
    return False


def judge(study: Study, step: str, returncode: int | None) -> None:
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
