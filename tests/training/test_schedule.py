"""Steps, order, validations and the joint early stop: pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from assistant_builder.config import TrainConfig
from assistant_builder.training.schedule import (
    best_step,
    sample_order,
    sample_steps,
    total_steps,
    validation_steps,
)


def train(**changes: object) -> TrainConfig:
    return TrainConfig(**{"batch_size": 4, "micro_batch_size": 2, "epochs": 2.0, **changes})


def test_steps_cover_the_epochs_and_obey_the_limit():
    assert total_steps(train(), 10) == 5
    assert total_steps(train(epochs=0.5), 10) == 2
    assert total_steps(train(max_steps=3), 10) == 3
    assert total_steps(train(epochs=0.01), 10) == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(0, 5))
def test_each_epoch_trains_on_every_pair_once(lengths, seed):
    settings = train(seed=seed, epochs=3.0)
    order = sample_order(lengths, settings)
    assert len(order) == total_steps(settings, len(lengths)) * settings.batch_size
    for epoch in range(3):
        assert sorted(order[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(
            range(len(lengths))
        )
    assert order == sample_order(lengths, settings)


def test_order_depends_on_the_seed_and_groups_similar_lengths():
    lengths = [(index * 37) % 101 for index in range(128)]
    order = sample_order(lengths, train(epochs=1.0))
    assert order != sample_order(lengths, train(epochs=1.0, seed=1))
    assert order != sample_order(lengths, train(epochs=2.0))[128:], (
        "every epoch has an order of its own"
    )
    batches = [[lengths[index] for index in order[at : at + 4]] for at in range(0, 128, 4)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    shuffled = [lengths[at : at + 4] for at in range(0, 128, 4)]
    assert spread < 0.3 * sum(max(batch) - min(batch) for batch in shuffled) / len(shuffled)


@given(st.integers(1, 500), st.integers(1, 40))
def test_validations_are_evenly_spaced_and_end_the_run(steps, evaluations):
    at = validation_steps(train(evaluations=evaluations), steps)
    assert at[-1] == steps and at[0] >= 1
    assert len(at) == min(evaluations, steps)
    gaps = [b - a for a, b in zip([0, *at], at, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 500), st.integers(1, 40))
def test_samples_are_taken_at_some_validations(steps, evaluations):
    settings = train(evaluations=evaluations)
    at, validations = sample_steps(settings, steps), validation_steps(settings, steps)
    assert set(at) <= set(validations)
    assert at[-1] == steps
    assert len(at) == len(set(at)) == min(8, len(validations))


def test_best_step_takes_the_earliest_of_equals():
    assert best_step({}) is None
    assert best_step({10: 1.0, 20: 0.5, 30: 0.5}) == 20
