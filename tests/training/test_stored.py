"""A training that is killed goes on on another machine, from its study's store alone, to the undisturbed bytes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.files import read_json, read_jsonl
from assistant_builder.jobs.events import Event
from assistant_builder.jobs.running import run_study
from assistant_builder.jobs.starting import open_or_create
from assistant_builder.jobs.steps import command
from assistant_builder.stores import Store
from assistant_builder.study import CHECKPOINT_MARKER, Study
from evals.soak.subject import new_subject
from tests.cluster.conftest import Background, wait_until
from tests.evals.export.tiny import tiny_base

pytestmark = pytest.mark.train
STEP = "train-lora"
LONG = {"train__max_steps": 60, "train__evaluations": 6, "train__epochs": 50}


def losses(study: Study) -> list[tuple[str, int, float]]:
    return [(event["event"], event["step"], event["loss"])
            for event in read_jsonl(study.arm_folder("lora") / "metrics.jsonl") if "loss" in event]


def test_another_machine_ends_with_the_bytes_of_an_undisturbed_run(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled_models: Path, quick_leases: None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    base = str(tiny_base(tmp_path / "base"))
    undisturbed = new_subject("undisturbed", base, **LONG)
    for step in ("data", STEP):
        subprocess.run(command(undisturbed, step), check=True, capture_output=True)

    study = new_subject("killed", base, executor__store=bucket, **LONG)
    store = Store(f"{bucket}/killed")
    run = Background(study)
    wait_until(lambda: any(name.endswith(f"lora/checkpoints/checkpoint-20/{CHECKPOINT_MARKER}")
                           for name in store.marks()), 120)
    record = study.step(STEP)
    assert record.state == "running" and record.pid is not None, "it ended before it could be killed"
    os.kill(record.pid, signal.SIGKILL)
    assert isinstance(run.wait(60), AssistantBuilderError)

    elsewhere = tmp_path / "another machine"
    elsewhere.mkdir()
    (elsewhere / "models").symlink_to(bundled_models)
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(elsewhere))
    other = open_or_create(f"{bucket}/killed", name=None, changes={}, redo=False)
    reached = losses(other)[-1][1]
    assert 20 <= reached < 60

    def enough(event: Event) -> None:
        if (event.step, event.state) == (STEP, "succeeded"):
            other.request_cancel()

    with pytest.raises(Cancelled):
        run_study(other, on_event=enough)
    summaries = [read_json(one.arm_folder("lora") / "summary.json") for one in (undisturbed, other)]
    assert summaries[0]["adapter_sha256"] == summaries[1]["adapter_sha256"]
    assert losses(other) == losses(undisturbed)
    assert b"succeeded" in (store.read("arms/lora/status.json") or b"")
