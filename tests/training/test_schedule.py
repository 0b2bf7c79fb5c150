"""Steps, order, validations and the joint early stop: pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from assistant_builder.config import TrainConfig
from assistant_builder.training.schedule import (
    best_step,
    early_stop_decision,
    is_stale,
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


def test_stale_needs_patience_validations_without_improvement():
    losses = {1: 1.0, 2: 0.8, 3: 0.9, 4: 0.85}
    assert not is_stale(losses, 3, patience=2)
    assert is_stale(losses, 4, patience=2)
    assert not is_stale({1: 1.0, 2: 1.1}, 2, patience=2)
    assert is_stale({1: 1.0, 2: 0.8, 3: 0.8, 4: 0.8}, 4, patience=2), (
        "an equal loss is no improvement"
    )


def run_jointly(lora: list[float], qlora: list[float], patience: int) -> tuple[int, int]:
    """Where both arms stop when they run in turns, as the steps of a study do."""
    curves, steps = {"lora": lora, "qlora": qlora}, len(lora)
    seen: dict[str, dict[int, float]] = {"lora": {}, "qlora": {}}
    done: dict[str, int] = {}
    for _ in range(4 * steps):
        for arm, other in (("lora", "qlora"), ("qlora", "lora")):
            while arm not in done:
                reached = max(seen[arm], default=0)
                move = (
                    early_stop_decision(seen[arm], [seen[other]], reached, steps, patience)
                    if reached
                    else "train"
                )
                if move == "stop":
                    done[arm] = reached
                elif move == "train":
                    seen[arm][reached + 1] = curves[arm][reached]
                else:
                    break
    return done["lora"], done["qlora"]


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            *(st.lists(st.floats(0.1, 3), min_size=n, max_size=n) for _ in range(2))
        )
    ),
    st.integers(1, 3),
)
def test_the_twins_stop_at_the_same_step(curves, patience):
    lora, qlora = curves
    stops = run_jointly(lora, qlora, patience)
    assert stops[0] == stops[1]
    losses = [dict(enumerate(curve, start=1)) for curve in curves]
    joint = [k for k in range(1, len(lora)) if all(is_stale(one, k, patience) for one in losses)]
    assert stops[0] == (joint[0] if joint else len(lora))
