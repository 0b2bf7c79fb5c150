"""Which study is given up before its training ends: Optuna's median rule over the validation losses of its arms.

A training is hopeless where its best validation loss so far is above the median of what the finished trainings of the
same arm had at the same place (the median stopping rule of Golovin et al., Google Vizier, KDD 2017). Places are
validations: the learning rate follows a cosine over a run's own length, so that trainings of different lengths are
compared at equal shares of theirs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from assistant_builder.errors import ConfigError
from assistant_builder.files import read_jsonl

FINISHED_FIRST = 3
"""Trainings of an arm that must have finished before one is judged: the median of fewer says little."""
FIRST_JUDGED = 2
"""The validation from which on a training is judged: the first one comes soon after warm-up."""
Curve = tuple[tuple[float, float], ...]
"""Validation losses of a training in order: share of its steps that were done, loss in nats a token."""


def available() -> bool:
    """Whether Optuna is installed."""
    return importlib.util.find_spec("optuna") is not None


def require_optuna() -> None:
    """Refuse to stop studies early without Optuna.

    Raises:
        ConfigError: It is not installed.
    """
    if not available():
        raise ConfigError("stopping hopeless studies early needs Optuna, which is not installed", where="--prune",
                          remedy="pip install 'assistant-builder[sweep]'; a new sweep does without it with --prune off")


def curve_of(folder: Path) -> Curve:
    """The validation losses that an arm's ``metrics.jsonl`` holds so far."""
    return tuple((event["step"] / event["steps"], event["loss"])
                 for event in read_jsonl(folder / "metrics.jsonl") if event["event"] == "validation")


def hopeless(own: Curve, finished: Sequence[Curve]) -> bool:
    """Whether a training is to be given up after its last validation so far.

    Args:
        own: Its validations; one that has reached its end is never given up.
        finished: Those of the trainings of the same arm that have come to their end.
    """
    import optuna

    if len(own) < FIRST_JUDGED or own[-1][0] >= 1:
        return False
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(
        n_startup_trials=FINISHED_FIRST, n_warmup_steps=FIRST_JUDGED))
    for curve in finished:
        study.add_trial(optuna.trial.create_trial(
            value=min(loss for _, loss in curve),
            intermediate_values=dict(enumerate((_loss_at(curve, share) for share, _ in own), start=1)),
        ))
    trial = study.ask()
    for place, (_, loss) in enumerate(own, start=1):
        trial.report(loss, place)
    return bool(trial.should_prune())


def _loss_at(curve: Curve, share: float) -> float:
    """The loss of the validation nearest to a share of the steps, the later of two equally near."""
    return min(reversed(curve), key=lambda point: abs(point[0] - share))[1]
