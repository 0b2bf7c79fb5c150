"""A training that is killed goes on on another machine, from its study's store alone, to the undisturbed bytes."""

import subprocess

import psutil
import pytest

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.runner.backend import Event
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.runner.step_process import step_command
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import CHECKPOINT_MARKER, Study
from tests.cluster.conftest import Background, wait_until
from tests.export.tiny import tiny_base
from tests.fault_injection.study import copy_of, small_study

pytestmark = pytest.mark.train
STEP = "train-lora"
LONG = {"train__max_steps": 30, "train__evaluations": 6, "train__epochs": 50}
"""Long enough to be caught between its first checkpoint, after five steps, and its end."""


def losses(study: Study) -> list[tuple[str, int, float]]:
    return [
        (event["event"], event["step"], event["loss"])
        for event in read_jsonl(study.arm_folder("lora") / "metrics.jsonl")
        if "loss" in event
    ]


@pytest.mark.long
def test_another_machine_resumes_to_the_same_bytes(
    bucket, tmp_path, monkeypatch, bundled_models, quick_leases
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = small_study("killed", str(tiny_base(tmp_path / "base")), executor__store=bucket, **LONG)
    store = ObjectStore(f"{bucket}/killed")
    run = Background(study)
    checkpoints = study.arm_folder("lora") / "checkpoints"
    wait_until(lambda: list(checkpoints.glob(f"*/{CHECKPOINT_MARKER}")))
    training = psutil.Process(study.step(STEP).pid)
    training.suspend()  # else it could end before the store has the checkpoint
    wait_until(lambda: any(name.endswith(f"/{CHECKPOINT_MARKER}") for name in store.versions()))
    training.kill()
    assert isinstance(run.wait(), AssistantBuilderError)

    elsewhere = tmp_path / "another machine"
    elsewhere.mkdir()
    (elsewhere / "models").symlink_to(bundled_models)
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(elsewhere))
    other = open_or_create(f"{bucket}/killed", name=None, changes={}, redo=False)
    reached = losses(other)[-1][1]
    assert other.step(STEP).state == "failed" and 5 <= reached < 30

    def enough(event: Event) -> None:
        if (event.step, event.state) == (STEP, "succeeded"):
            other.request_cancel()

    with pytest.raises(Cancelled):
        run_study(other, on_event=enough)
    undisturbed = copy_of(other, "undisturbed", without=[STEP])
    subprocess.run(step_command(undisturbed, STEP), check=True, capture_output=True)
    summaries = [read_json(one.arm_folder("lora") / "summary.json") for one in (undisturbed, other)]
    assert summaries[0]["adapter_sha256"] == summaries[1]["adapter_sha256"]
    assert losses(other) == losses(undisturbed)
    assert b"succeeded" in (store.read("arms/lora/status.json") or b"")
