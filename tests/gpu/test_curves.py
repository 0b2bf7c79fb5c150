"""Loss curves of both arms on the device, compared with a CPU in float32."""

import math
from pathlib import Path

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.study import Study
from tests.gpu.conftest import (
    ARMS,
    DEVICE,
    ON_THE_CPU,
    TOLERANCE,
    change,
    copy_of,
    events,
    new_study,
    start,
    step,
)

pytestmark = [pytest.mark.gpu, pytest.mark.train]
STEPS = 21
"""The first on the CPU, from which both carry on: a device draws other values for fresh adapters than a CPU."""


@pytest.fixture(scope="module")
def references(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Study, Study]]:
    """By arm: a study after its first step, and the same trained to its end, both on the CPU in float32."""
    folder = tmp_path_factory.mktemp("references")
    found: dict[str, tuple[Study, Study]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
        for arm in ARMS:
            begun = new_study(
                f"begun-{arm}", base, train__max_steps=STEPS, model__compute_dtype="float32"
            )
            begun.request_cancel()  # takes effect after the first step, whose checkpoint is kept
            assert start(begun, f"train-{arm}", **ON_THE_CPU).wait() == 3
            begun.clear_cancel()
            assert [event["step"] for event in events(begun, arm)] == [1]
            whole = copy_of(begun, folder / "whole")
            step(whole, f"train-{arm}", **ON_THE_CPU)
            found[arm] = begun, whole
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_loss_of_twenty_steps_matches_the_cpu(references, arm, dtype, tmp_path, tell):
    begun, whole = references[arm]
    study = copy_of(begun, tmp_path)
    change(study, model__compute_dtype=dtype)
    step(study, f"train-{arm}")
    ours, theirs = events(study, arm), events(whole, arm)
    assert [event["step"] for event in ours] == list(range(1, STEPS + 1))
    # the same pairs a step
    assert [event["tokens"] for event in ours] == [event["tokens"] for event in theirs]
    assert theirs[-1]["loss"] < theirs[0]["loss"] - 10 * TOLERANCE[dtype], (
        "nothing was learnt that could differ"
    )

    summary = read_json(study.arm_folder(arm) / "summary.json")
    assert (summary["device"], summary["compute_dtype"], summary["steps"]) == (DEVICE, dtype, STEPS)
    for event in ours:  # without a norm a step was skipped, because a gradient overflowed
        assert event["grad_norm"] is not None and math.isfinite(event["grad_norm"]), event
        assert math.isfinite(event["loss"]), event
    assert finite_adapter(study, arm)

    apart = [
        abs(own["loss"] - other["loss"]) for own, other in zip(ours[1:], theirs[1:], strict=True)
    ]
    told = [
        abs(own["loss"] - other["loss"])
        for own, other in zip(
            events(study, arm, "validation"), events(whole, arm, "validation"), strict=True
        )
    ]
    tell(
        f"{arm} in {dtype}: the loss curve of 20 steps is within {max(apart):.4f} nats of the CPU's in float32, "
        f"validations within {max(told):.4f}"
    )
    assert max(apart) <= TOLERANCE[dtype] and max(told) <= TOLERANCE[dtype]


def finite_adapter(study: Study, arm: str) -> bool:
    """Whether all values of the adapter are finite."""
    from safetensors.torch import load_file

    adapter = load_file(study.arm_folder(arm) / "adapter" / "adapter_model.safetensors")
    return bool(adapter) and all(bool(value.isfinite().all()) for value in adapter.values())


def test_stored_bytes_of_the_base_match_the_plan(trained):
    """The plan omits only the small tables of 4-bit layers."""
    for arm in ARMS:
        summary = read_json(trained.arm_folder(arm) / "summary.json")
        predicted = summary["predicted"]
        assert predicted["adapter_bytes"] == summary["adapter_bytes"]
        assert predicted["base_bytes"] == pytest.approx(summary["base_bytes"], rel=0.02), arm
