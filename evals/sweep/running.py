"""Run the studies of a sweep one by one: what is done is kept, what fails is told, what is hopeless is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.jobs.events import Event
from assistant_builder.jobs.running import run_study
from assistant_builder.jobs.starting import enter
from assistant_builder.mishaps import explained
from assistant_builder.study import Study
from evals.sweep.defining import Sweep
from evals.sweep.grid import Trial
from evals.sweep.pruning import Curve, curve_of, hopeless
from evals.sweep.results import write_results
from evals.sweep.sharing import take_split

Telling = Callable[[Event], None]


def run_sweep(
    sweep: Sweep, *,
    telling: Callable[[Trial], AbstractContextManager[Telling]] = lambda trial: nullcontext(lambda event: None),
    check: Callable[[Study], None] = lambda study: None,
) -> dict[str, Any]:
    """Run every study that is neither done nor given up, and write the results after each.

    Args:
        sweep: The sweep.
        telling: Called before each study that is run; gives what is told of its events.
        check: See :func:`assistant_builder.jobs.running.run_study`.

    Returns:
        What ``sweep.json`` holds.

    Raises:
        StudyError: Another process runs the sweep, or its folder cannot be written to.
        Cancelled: The user asked for it; running the sweep again carries on.
    """
    with sweep.held():
        errors: dict[str, AssistantBuilderError] = {}
        for trial in sweep.trials:
            if trial.name in sweep.stopped and sweep.study(trial) is not None:
                continue
            try:
                study = enter(trial.config, sweep.data)
                if study.state != "succeeded":
                    take_split(sweep, study)
                    with telling(trial) as tell:
                        run_trial(sweep, trial, study, tell, check)
            except Cancelled as stop:
                write_results(sweep, errors)
                raise Cancelled(stop.what, where=f"study {trial.name}",
                                remedy="Run the sweep again as before, and it carries on") from stop
            except (AssistantBuilderError, OSError, MemoryError) as error:
                errors[trial.name] = explained(error)
            write_results(sweep, errors, compared=False)
        return write_results(sweep, errors)


def run_trial(sweep: Sweep, trial: Trial, study: Study, tell: Telling, check: Callable[[Study], None]) -> None:
    """Run one study to its end, or until it is hopeless.

    Args:
        sweep: The sweep.
        trial: One of its trials.
        study: The trial's study.
        tell: Told what happens in the run.
        check: See :func:`assistant_builder.jobs.running.run_study`.

    Raises:
        AssistantBuilderError: What ended the run, unless the study was given up as hopeless.
    """
    watch = _Watch(sweep, trial, study, tell)
    try:
        run_study(study, on_event=watch, check=check)
    except Cancelled:
        if not watch.stopped:
            raise


class _Watch:
    """Passes on what happens in a study's run, and has it cancelled once it is hopeless."""

    def __init__(self, sweep: Sweep, trial: Trial, study: Study, tell: Telling) -> None:
        self._sweep, self._trial, self._study, self._tell = sweep, trial, study, tell
        self._done: tuple[str, int] = ("", 0)
        self._validations: tuple[str, int] = ("", 0)
        self.stopped = False

    def __call__(self, event: Event) -> None:
        self._tell(event)
        done = (event.step, event.progress.done if event.progress else 0)
        if (self._sweep.prune == "off" or self.stopped or event.state != "running" or done == self._done
                or not event.step.startswith("train-")):
            return
        self._done = done
        own = curve_of(self._study.arm_folder(event.step.removeprefix("train-")))
        if (event.step, len(own)) != self._validations:
            self._validations = (event.step, len(own))
            self._judge(event.step, own)

    def _judge(self, step: str, own: Curve) -> None:
        run = step.removeprefix("train-")
        others = [study for trial in self._sweep.trials
                  if trial is not self._trial and (study := self._sweep.study(trial)) is not None]
        finished = [curve_of(study.arm_folder(run)) for study in others if study.step(step).state == "succeeded"]
        if hopeless(own, finished):
            self._sweep.note_stopped(self._trial.name, {
                "run": run, "share": own[-1][0], "loss": min(loss for _, loss in own), "compared_with": len(finished),
            })
            self._study.request_cancel()
            self.stopped = True
