"""Run the studies of a sweep, and estimate the time before the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from assistant_builder.data import Pair, prepare_dataset
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.i18n import m
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import local_model_folder
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.planning.plan import Lengths, plan_study
from assistant_builder.runner.backend import Event
from assistant_builder.runner.open_study import create_or_update
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from assistant_builder.study.steps import arm_runs, split_run
from assistant_builder.sweep.results import write_results
from assistant_builder.sweep.spec import Sweep, Trial
from evals.report.number_format import duration, plural

OnEvent = Callable[[Event], None]


def run_sweep(
    sweep: Sweep,
    *,
    listener: Callable[[Trial], AbstractContextManager[OnEvent]] = lambda trial: nullcontext(
        lambda event: None
    ),
    check: Callable[[Study], None] = lambda study: None,
) -> dict[str, Any]:
    """Run every study that is not done; write the results after each, and return them.

    ``listener`` is called before each study and returns the context manager of its event callback; ``check``: see
    :func:`assistant_builder.runner.run.run_study`.

    Raises:
        StudyError: Another process runs the sweep, or its folder is not writable.
        Cancelled: The user cancelled; another run of the sweep resumes it.
    """
    with sweep.locked():
        errors: dict[str, AssistantBuilderError] = {}
        for trial in sweep.trials:
            try:
                study = create_or_update(trial.config, sweep.data)
                if study.state != "succeeded":
                    with listener(trial) as on_event:
                        run_study(study, on_event=on_event, check=check)
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
        if study is not None and study.state == "succeeded":
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
