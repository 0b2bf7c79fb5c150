"""Run the studies of a sweep on one split, stop hopeless trainings early, and estimate the time before the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from assistant_builder.atomic_io import write_text
from assistant_builder.data import Pair, prepare_dataset
from assistant_builder.data.card import inline
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.i18n import m
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.download import local_model_folder
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.planning.plan import Lengths, plan_study
from assistant_builder.runner.backend import Event
from assistant_builder.runner.invalidation import damaged_outputs, step_inputs
from assistant_builder.runner.open_study import create_or_update
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from assistant_builder.study.steps import arm_runs, split_run
from assistant_builder.sweep.results import write_results
from assistant_builder.sweep.spec import Curve, Sweep, Trial, curve_of, should_prune
from evals.report.format import duration, plural

_STEPS = ("data", "data-embed")


def take_split(sweep: Sweep, study: Study) -> None:
    """Copy the split of the first study that has one into a study without a split, and mark the steps as done.

    A step is copied only if it has the same inputs in both studies; otherwise the study runs it.
    """
    if any(study.step(step).state != "queued" for step in _STEPS):
        return
    others = (other for trial in sweep.trials if (other := sweep.study(trial)) is not None)
    for donor in others:
        if donor.folder != study.folder and _is_complete(donor):
            with study.lock():
                all(_take(step, donor, study) for step in _STEPS)  # up to the first that differs
            return


def _is_complete(study: Study) -> bool:
    records = [study.step(step) for step in _STEPS]
    return all(r.state == "succeeded" and not damaged_outputs(study, r) for r in records)


def _take(step: str, donor: Study, study: Study) -> bool:
    """Copy the outputs of a step and then its record, with a time of 0; returns whether the inputs allow it."""
    record = donor.step(step)
    if record.inputs != step_inputs(study, step):
        return False
    for name in record.outputs:
        (study.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(donor.folder / name, study.folder / name)
    if step == "data":
        study.record_template_date(like=donor)
        card = (donor.folder / "data" / "card.md").read_text(encoding="utf-8")
        card = card.replace(f"pretty_name: {donor.name}\n", f"pretty_name: {study.name}\n", 1)
        card = card.replace(f"# {inline(donor.name)}\n", f"# {inline(study.name)}\n", 1)
        write_text(study.folder / "data" / "card.md", card)
    else:
        shutil.copyfile(donor.folder / "provenance.json", study.folder / "provenance.json")
    study.write_step(replace(record, seconds=0.0))
    return True


OnEvent = Callable[[Event], None]


def run_sweep(
    sweep: Sweep,
    *,
    listener: Callable[[Trial], AbstractContextManager[OnEvent]] = lambda trial: nullcontext(
        lambda event: None
    ),
    check: Callable[[Study], None] = lambda study: None,
) -> dict[str, Any]:
    """Run every study that is neither done nor stopped early; write the results after each, and return them.

    ``listener`` is called before each study and returns the context manager of its event callback; ``check``: see
    :func:`assistant_builder.runner.run.run_study`.

    Raises:
        StudyError: Another process runs the sweep, or its folder is not writable.
        Cancelled: The user cancelled; another run of the sweep resumes it.
    """
    with sweep.locked():
        errors: dict[str, AssistantBuilderError] = {}
        for trial in sweep.trials:
            if trial.name in sweep.stopped and sweep.study(trial) is not None:
                continue
            try:
                study = create_or_update(trial.config, sweep.data)
                if study.state != "succeeded":
                    take_split(sweep, study)
                    with listener(trial) as on_event:
                        run_trial(sweep, trial, study, on_event, check)
            except Cancelled as stop:
                write_results(sweep, errors)
                raise Cancelled(
                    stop.what,
                    where=m("{study} {name}", name=trial.name),
                    remedy=m("Run the same sweep again to resume it"),
                ) from stop
            except (AssistantBuilderError, OSError, MemoryError) as error:
                errors[trial.name] = translate_error(error)
            write_results(sweep, errors, compared=False)
        return write_results(sweep, errors)


def run_trial(
    sweep: Sweep, trial: Trial, study: Study, on_event: OnEvent, check: Callable[[Study], None]
) -> None:
    """Run one study to its end, or until it is stopped early."""
    pruner = _Pruner(sweep, trial, study, on_event)
    try:
        run_study(study, on_event=pruner, check=check)
    except Cancelled:
        if not pruner.stopped:
            raise


class _Pruner:
    """An event callback that cancels a study once it is hopeless, and forwards the events."""

    def __init__(self, sweep: Sweep, trial: Trial, study: Study, on_event: OnEvent) -> None:
        self._sweep, self._trial, self._study, self._on_event = sweep, trial, study, on_event
        self._done = self._validations = ("", 0)
        self.stopped = False

    def __call__(self, event: Event) -> None:
        self._on_event(event)
        done = (event.step, event.progress.done if event.progress else 0)
        if (
            self._sweep.prune == "off"
            or self.stopped
            or event.state != "running"
            or done == self._done
            or not event.step.startswith("train-")
        ):
            return
        self._done = done
        own = curve_of(self._study.arm_folder(event.step.removeprefix("train-")))
        if (event.step, len(own)) != self._validations:
            self._validations = (event.step, len(own))
            self._prune(event.step, own)

    def _prune(self, step: str, own: Curve) -> None:
        run = step.removeprefix("train-")
        others = [self._sweep.study(each) for each in self._sweep.trials if each is not self._trial]
        finished = [
            curve_of(study.arm_folder(run))
            for study in others
            if study is not None and study.step(step).state == "succeeded"
        ]
        if should_prune(own, finished):
            why = {
                "run": run,
                "share": own[-1][0],
                "loss": min(loss for _, loss in own),
                "compared_with": len(finished),
            }
            self._sweep.record_stopped(self._trial.name, why)
            self._study.request_cancel()
            self.stopped = True


@dataclass(frozen=True)
class SweepEstimate:
    """The remaining work of a sweep.

    Attributes:
        studies: Number of unfinished studies.
        seconds: Planned time of their trainings in sequence on this machine; None if the plan has none.
        assumed: Whether the lengths of the pairs are assumed, because the base model is not downloaded yet.
    """

    studies: int
    of: int
    trainings: int
    seconds: float | None
    assumed: bool

    def sentence(self) -> str:
        """The estimate in one line."""
        if not self.studies:
            return f"All {plural(self.of, 'study is', 'studies are')} done."
        which = plural(self.of, "study", "studies")
        which = f"{self.studies} of {which}" if self.studies < self.of else which
        guess = " with assumed lengths of the pairs" if self.assumed else ""
        time = f", planned at about {duration(self.seconds)} in sequence" if self.seconds else ""
        time += guess if time else ""
        return f"{which} to run, {plural(self.trainings, 'training')}{time}; preparation and scoring not included."


def estimate(sweep: Sweep) -> SweepEstimate:
    """Count the remaining work and plan its time.

    Raises:
        ModelError: The base is unknown or unavailable, or has no layer that ``train.target_modules`` names.
    """
    first = sweep.trials[0].config
    pairs = prepare_dataset(sweep.data, first.data).split.pairs("train")
    folder = local_model_folder(first.model)
    lengths = _lengths(folder, pairs, first.train.max_length) if folder is not None else None
    studies = trainings = 0
    seconds: list[float | None] = []
    for trial in sweep.trials:
        study = sweep.study(trial)
        if study is not None and (trial.name in sweep.stopped or study.state == "succeeded"):
            continue
        studies += 1
        plan = plan_study(trial.config, len(pairs), lengths)
        for run in arm_runs(trial.config.seeds, trial.config.arms):
            if study is None or study.step(f"train-{run}").state != "succeeded":
                trainings += 1
                seconds.append(plan.methods[split_run(run)[0]].seconds)
    known = [second for second in seconds if second is not None]
    total = sum(known) if len(known) == len(seconds) and known else None
    return SweepEstimate(studies, len(sweep.trials), trainings, total, lengths is None)


def _lengths(folder: Path, pairs: Sequence[Pair], max_length: int | Literal["auto"]) -> Lengths:
    limit = context_length(folder) if max_length == "auto" else max_length
    with closing(TemplateProcess(folder)) as process:
        measured = LimitedChatTokenizer(process).measure(pairs)
    read = [min(tokens, limit) for tokens in measured.tokens]
    return replace(Lengths.about(fmean(read), max(read)), assumed=False)
