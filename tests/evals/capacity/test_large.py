"""The 70B study on eight cards, by the planner."""

from __future__ import annotations

import pytest

from assistant_builder.planning.hardware import CARDS
from assistant_builder.planning.training_time import ACHIEVED
from evals.capacity.large import DEVICES, GATHERED_PER_SECOND, arms_on, checkpoint_bytes, download_bytes, plan_on


@pytest.mark.parametrize("card", GATHERED_PER_SECOND)
def test_both_arms_are_parted_and_fit(card: str) -> None:
    arms = {arm.method: arm for arm in arms_on(card)}
    assert all(arm.spread == "fsdp" and arm.fit != "no" for arm in arms.values())
    assert arms["qlora"].device_bytes < arms["lora"].device_bytes < CARDS[card].memory_bytes
    # 141 GB of 16-bit weights on eight cards, and the planner's 39.5 GB of 4-bit ones
    assert arms["lora"].device_bytes > 141e9 / DEVICES and arms["qlora"].device_bytes > 39.5e9 / DEVICES


@pytest.mark.parametrize("card", GATHERED_PER_SECOND)
def test_time_is_that_of_one_card_shared_by_all(card: str) -> None:
    """Should the planner come to count the cards itself, they must not be counted twice here."""
    plan = plan_on(card)
    for arm, method in zip(arms_on(card), (plan.lora, plan.qlora), strict=True):
        one = method.work.flops / (CARDS[card].flops * ACHIEVED["cuda"][method.method])
        assert arm.seconds == pytest.approx(one / DEVICES)
        assert arm.cost == pytest.approx(one / 3600 * (CARDS[card].price_per_hour or 0))


def test_gathering_by_hand() -> None:
    (lora, _) = arms_on("A100 80 GB")
    steps = 10_000 * 3 / 16  # of 16 pairs, two a card
    passes = 3 if lora.checkpointing else 2
    assert lora.gather_seconds == pytest.approx(steps * passes * 141.1e9 * 7 / 8 / 300e9, rel=0.01)


def test_download_and_checkpoints() -> None:
    assert download_bytes() == pytest.approx(141.1e9, rel=0.001)
    assert checkpoint_bytes(10) == 30
