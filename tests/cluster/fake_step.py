"""A step that sleeps: ``fake_step.py FOLDER STEP``. Files beside its log tell it what to do; it needs none.

``sleep`` says how long it sleeps in all, counted in ``slept`` as a training counts its steps, so that it carries on;
``meets`` says which trainings have to have started, or it waits; ``deaf`` makes it overhear that the study is
cancelled; ``after`` names a file in the study to be there, or it waits for its twin; ``broken`` makes it fail.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from assistant_builder.atomic_io import append_jsonl, read_jsonl
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study

study, step = Study(Path(sys.argv[1])), sys.argv[2]
folder = study.step_folder(step)


def told(name: str, otherwise: str = "") -> str:
    path = folder / f"{step}.{name}"
    return path.read_text() if path.exists() else otherwise


def work() -> list[Path] | None:
    append_jsonl(folder / f"{step}.starts", {"time": time.time()})
    if told("broken"):
        raise AssistantBuilderError("it is broken", remedy="Mend it")
    while len(read_jsonl(folder / f"{step}.slept")) < 10 * float(told("sleep", "0")):
        time.sleep(0.1)
        append_jsonl(folder / f"{step}.slept", {"start": len(read_jsonl(folder / f"{step}.starts"))})
        if not told("deaf"):
            study.raise_if_cancelled()
    while not all((study.arm_folder(run) / f"train-{run}.starts").exists() for run in told("meets").split()):
        time.sleep(0.1)
    after = told("after")
    if after and not (study.folder / after).exists():
        return None
    made = folder / f"{step}.made"
    made.write_text(step)
    return [made]


raise SystemExit(run_as_step(study, step, work))
