"""What a sweep will cost, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from assistant_builder.data import Pair, prepare
from assistant_builder.models.preview import Lengths as Measured
from assistant_builder.models.preview import model_at_hand
from assistant_builder.models.prompt_process import LimitedPrompter, PromptProcess
from assistant_builder.planning.plan import Lengths
from assistant_builder.planning.planner import plan_study
from assistant_builder.steps import arm_runs, split_run
from evals.report.wording import duration, plural
from evals.sweep.defining import Sweep


@dataclass(frozen=True)
class Ahead:
    """What is still to be done.

    Attributes:
        studies: Studies that are not done, of ``of``.
        of: Studies of the sweep.
        trainings: Trainings that are not done.
        seconds: Time that these take one after the other on this machine by the plan; None where it cannot be told.
        assumed: Whether the plan guesses the lengths of the pairs, because the base model is not here yet.
    """

    studies: int
    of: int
    trainings: int
    seconds: float | None
    assumed: bool

    def sentence(self) -> str:
        """One line for the user."""
        if not self.studies:
            return f"All {plural(self.of, 'study is', 'studies are')} done."
        which = plural(self.of, "study", "studies")
        which = f"{self.studies} of {which}" if self.studies < self.of else which
        guess = ", with the lengths of the pairs guessed" if self.assumed else ""
        time = f", about {duration(self.seconds)} one after the other by the plan{guess}" if self.seconds else ""
        return f"{which} to run, {plural(self.trainings, 'training')}{time}; preparing and scoring come on top."


def ahead(sweep: Sweep) -> Ahead:
    """Count what is still to be done, and plan its time.

    Raises:
        ModelError: The base is unknown or out of reach, or has no layer that ``train.target_modules`` names.
    """
    first = sweep.trials[0].config
    pairs = prepare(sweep.data, first.data).split.pairs("train")
    folder = model_at_hand(first.model)
    measured = _measured(folder, pairs, first.train.max_length) if folder is not None else None
    lengths = _lengths(measured) if measured is not None else None
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
    return Ahead(studies, len(sweep.trials), trainings, sum(known) if len(known) == len(seconds) and known else None,
                 measured is None)


def _measured(folder: Path, pairs: Sequence[Pair], max_length: int) -> Measured:
    process = PromptProcess(folder)
    try:
        return LimitedPrompter(process).measure(pairs, max_length)
    finally:
        process.close()


def _lengths(measured: Measured) -> Lengths:
    longest = measured.max_length
    cut = [min(tokens, longest) for tokens in measured.tokens]
    return replace(Lengths.about(fmean(cut), max(cut)), assumed=False)
