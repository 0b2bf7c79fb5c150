"""SIGKILL in every step of a study and at seeded moments of a training: a resumed run must give the same results.

After some of the kills a file of a checkpoint is damaged too, as a machine that loses its power may leave it.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from assistant_builder.study import Study
from tests.fault_injection.corruption import corrupt
from tests.fault_injection.study import Row, copy_of, differences, run, start
from tests.fault_injection.triggers import Trigger, step_trigger, training_trigger

_MOST_TRIES = 6
"""Kills that one study gets before it may end."""


def kill_every_step(
    reference: Study, wanted: dict[str, Any], seed: int, log: Callable[[str], None]
) -> Row:
    """Kill each step of one study once, by turns the step, its runner, and both; then let it end."""
    draw = random.Random(f"steps/{seed}")
    study = copy_of(reference, "every-step", without=tuple(reversed(reference.steps)))
    row = Row("SIGKILL in every step")
    for place, step in enumerate(study.steps):
        victim = ("step", "runner", "both")[place % 3]
        trigger = step_trigger(study, step, draw)
        row.add(
            _killed(study, step, trigger, victim, log),
            f"{step}: it ended before it could be killed",
        )
    finish(study, wanted, row, "after a kill in every step")
    return row


def kill_training(
    reference: Study, wanted: dict[str, Any], kills: int, seed: int, log: Callable[[str], None]
) -> Row:
    """Kill trainings at seeded moments, several times in a row, and compare what running again ends with."""
    row = Row("SIGKILL at random moments of training")
    number = 0
    while row.injected < kills:
        arm = ("lora", "qlora")[number % 2]
        draw = random.Random(f"training/{seed}/{number}")
        study = copy_of(
            reference, f"killed-{number}", without=("report", "evaluate", f"train-{arm}")
        )
        number += 1
        for _ in range(min(_MOST_TRIES, kills - row.injected)):
            trigger = training_trigger(study, arm, draw)
            if not _killed(
                study, f"train-{arm}", trigger, draw.choice(["step", "runner", "both"]), log
            ):
                break  # the step ended before the trigger: continue with the next study
            row.add(True, "")
            _damage_checkpoint(study, arm, draw, log)
        finish(
            study,
            {key: value for key, value in wanted.items() if key == arm},
            row,
            f"{arm}, study {number}",
            until=f"train-{arm}",
        )
    return row


def _damage_checkpoint(
    study: Study, arm: str, draw: random.Random, log: Callable[[str], None]
) -> None:
    """Damage a checkpoint after one kill in three, unless the step is still running and writing."""
    files = [
        path
        for path in sorted(study.arm_folder(arm).glob("checkpoints/*/*"))
        if path.stat().st_size
    ]
    if files and draw.random() < 1 / 3 and study.step(f"train-{arm}").state != "running":
        path = draw.choice(files)
        log(f"{study.name}: {corrupt(path, draw)} in {path.parent.name}/{path.name}")


def _killed(
    study: Study, step: str, trigger: Trigger, victim: str, log: Callable[[str], None]
) -> bool:
    """Run the study and kill the step, its runner, or both, at a trigger; False if it ended before."""
    runner = start(study)

    def pid() -> int | None:
        record = study.step(step)
        return record.pid if record.state == "running" else None

    def alive() -> bool:
        return runner.poll() is None and study.step(step).state != "succeeded"

    came = Trigger("running", lambda: pid() is not None, poll=0.03).wait(alive) and trigger.wait(
        alive
    )
    target = pid()
    if came and target is not None:
        log(f"{study.name}: SIGKILL {victim} of {step}, {trigger.name}")
        if victim in ("runner", "both"):
            runner.kill()
        if victim in ("step", "both"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
    else:
        came = False
        _end(study, runner)
    runner.communicate()  # a step whose runner was killed continues
    return came


def _end(study: Study, runner: subprocess.Popen[str]) -> None:
    """Stop a run that went past the step that should have been killed."""
    while runner.poll() is None:
        study.request_cancel()
        time.sleep(0.1)


def finish(study: Study, wanted: dict[str, Any], row: Row, what: str, until: str = "") -> None:
    """Run to the end, or until one step is done, and compare."""
    if not until:
        code, output = run(study)
        problems = differences(study, wanted) if code == 0 else [output.strip().splitlines()[-1]]
    else:
        runner = start(study)
        done = Trigger("done", lambda: study.step(until).state == "succeeded", poll=0.1)
        done.wait(lambda: runner.poll() is None)  # where it fails, the runner ends
        _end(study, runner)
        runner.communicate()
        problems = differences(study, wanted)
    row.compare(problems, what)
