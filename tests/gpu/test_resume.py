"""A training that is killed on the device and resumed ends like an uninterrupted one."""

import time

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.training import checkpoints
from tests.gpu.conftest import (
    ARMS,
    TOLERANCE,
    adapter_hash,
    copy_of,
    events,
    log_end,
    new_study,
    start,
    step,
)

pytestmark = [pytest.mark.gpu, pytest.mark.train]
HALF = 60


@pytest.mark.parametrize("arm", ARMS)
def test_resumed_training_matches_an_uninterrupted_one(base, tmp_path, arm, tell):
    """Equal bytes or, if kernels are not deterministic, equal loss curves within rounding."""
    calm = new_study(
        "calm", base, train__max_steps=2 * HALF, train__dropout=0.05, train__batch_size=4
    )
    killed, again = copy_of(calm, tmp_path / "killed"), copy_of(calm, tmp_path / "again")
    step(calm, f"train-{arm}")

    process = start(killed, f"train-{arm}")
    while not any(event["step"] > HALF for event in events(killed, arm)):
        assert process.poll() is None, (
            f"it ended before it could be killed: {log_end(killed, f'train-{arm}')}"
        )
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert killed.step(f"train-{arm}").state == "lost"
    assert checkpoints.complete_steps(killed.arm_folder(arm) / "checkpoints") == [HALF]
    step(killed, f"train-{arm}")

    assert read_json(killed.arm_folder(arm) / "summary.json")["steps"] == 2 * HALF
    if adapter_hash(calm, arm) == adapter_hash(killed, arm):
        tell(f"{arm}: a killed and resumed training ends with the bytes of one that was not killed")
        return
    step(again, f"train-{arm}")
    assert adapter_hash(calm, arm) != adapter_hash(again, arm), (
        "training is repeatable here, and resuming changes it"
    )
    curves = [[event["loss"] for event in events(study, arm)] for study in (calm, killed)]
    apart = max(abs(one - two) for one, two in zip(*curves, strict=True))
    tell(
        f"{arm}: no two trainings end with the same bytes; a killed and resumed one is within {apart:.4f} nats"
    )
    assert apart <= TOLERANCE[read_json(calm.arm_folder(arm) / "summary.json")["compute_dtype"]]
