"""A step that sleeps: ``fake_step.py FOLDER STEP``, with optional files ``STEP.OPTION`` in the folder of its log.

Options: ``sleep``: total seconds, counted in ``STEP.slept`` so that a restart resumes; ``meets``: trainings that must
have started; ``deaf``: ignore a cancellation; ``after``: file of the study that must exist, else the step waits for
the other arm; ``broken``: fail.
"""

import sys
import time
from pathlib import Path

from assistant_builder.atomic_io import append_jsonl, read_jsonl
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study

study, step = Study(Path(sys.argv[1])), sys.argv[2]
folder = study.step_folder(step)


def option(name: str, otherwise: str = "") -> str:
    path = folder / f"{step}.{name}"
    return path.read_text() if path.exists() else otherwise


def work() -> list[Path] | None:
    append_jsonl(folder / f"{step}.starts", {"time": time.time()})
    if option("broken"):
        raise AssistantBuilderError("it is broken", remedy="Repair it")
    while len(read_jsonl(folder / f"{step}.slept")) < 10 * float(option("sleep", "0")):
        time.sleep(0.1)
        append_jsonl(
            folder / f"{step}.slept", {"start": len(read_jsonl(folder / f"{step}.starts"))}
        )
        if not option("deaf"):
            study.raise_if_cancelled()
    while not all(
        (study.arm_folder(run) / f"train-{run}.starts").exists() for run in option("meets").split()
    ):
        time.sleep(0.1)
    after = option("after")
    if after and not (study.folder / after).exists():
        return None
    made = folder / f"{step}.made"
    made.write_text(step)
    return [made]


raise SystemExit(run_as_step(study, step, work))
