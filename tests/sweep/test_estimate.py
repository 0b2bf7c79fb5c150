"""What a sweep says it will take before it starts."""

import pytest

from assistant_builder.data import prepare_dataset
from assistant_builder.planning.plan import plan_study
from assistant_builder.runner.open_study import create_or_update
from assistant_builder.sweep import open_sweep, run_sweep
from assistant_builder.sweep.run import estimate
from assistant_builder.sweep.spec import Sweep
from tests.sweep.simulated_runs import Scenario, pretend
from tests.synthetic_study import SMALL, done, with_data


def opened(*settings: str) -> Sweep:
    return open_sweep(str(SMALL), name="cost", settings=["train.rank=1,64", *settings])


def test_every_training_is_counted_and_planned_with_its_own_settings():
    sweep = opened()
    found = estimate(sweep)
    pairs = len(prepare_dataset(SMALL, sweep.trials[0].config.data).split.train)
    plans = [plan_study(trial.config, pairs) for trial in sweep.trials]
    times = [plan.methods[method].seconds or 0.0 for plan in plans for method in ("lora", "qlora")]
    assert (found.studies, found.of, found.trainings, found.assumed) == (2, 2, 4, True)
    assert found.seconds == pytest.approx(sum(times)) and times[2] > times[0] > 0
    assert found.sentence().startswith("2 studies to run, 4 trainings, planned at about ")
    assert found.sentence().endswith(
        "assumed lengths of the pairs; preparation and scoring not included."
    )


def test_more_seeds_are_more_trainings():
    assert estimate(opened("seeds=3")).trainings == 12


def test_what_is_done_is_not_counted_again(monkeypatch):
    pretend(Scenario(), monkeypatch)
    sweep = opened()
    done(with_data(create_or_update(sweep.trials[1].config, sweep.data)), "train-lora", 3.0)
    assert (estimate(sweep).studies, estimate(sweep).trainings) == (2, 3)
    run_sweep(sweep)
    assert estimate(sweep).sentence() == "All 2 studies are done."


def test_with_the_tokenizer_here_the_lengths_are_measured(bundled_models):
    found = estimate(opened())
    assert not found.assumed and "guessed" not in found.sentence()
    guessed = 2 * sum(
        plan_study(trial.config, 40).methods["lora"].seconds or 0.0 for trial in opened().trials
    )
    assert found.seconds is not None and 0 < found.seconds < guessed, (
        "these pairs are far shorter than half of 512"
    )
