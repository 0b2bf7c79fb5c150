"""A disk that fills up in training, evaluation or report: the error names it, and the run resumes with free space."""

import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant_builder.study import Study
from tests.fault_injection.kills import finish
from tests.fault_injection.study import Row, copy_of, run

_STEPS = ("train-lora", "evaluate", "report")
_FREE_BYTES = 64 * 2**20


def full_disk(
    reference: Study, wanted: dict[str, Any], times: int, seed: int, log: Callable[[str], None]
) -> Row:
    """Run a step with a seeded amount of free disk, check the error, then free space, resume and compare."""
    row = Row("disk full in a step")
    for number in range(times):
        step = _STEPS[number % len(_STEPS)]
        draw = random.Random(f"disk/{seed}/{number}")
        undone = tuple(reversed(reference.steps[reference.steps.index(step) :]))
        template = copy_of(reference, f"disk-{number}", without=undone)
        with _disk() as disk:
            if disk is None:
                row.add(False, "no disk can be mounted here: it needs root")
                return row
            study = _moved(template, disk)
            free = draw.randrange(16_384, 262_144)
            _resize(disk, _used(disk) + 65_536 + free)
            log(f"{study.name}: {free} bytes free in {step}")
            code, output = run(study)
            row.add(code != 0, f"{step}: {free} bytes were enough")
            if code:
                row.compare(_said(study, output), f"{step} with {free} bytes free")
            _resize(disk, _used(disk) + _FREE_BYTES)
            finish(
                study,
                {"lora": wanted["lora"]} if step == "train-lora" else wanted,
                row,
                f"{step} after {free} bytes free",
                until=step if step == "train-lora" else "",
            )
    return row


def _said(study: Study, output: str) -> list[str]:
    line = output.strip().splitlines()[-1]
    problems = [] if "the disk is full" in line else [f"it output: {line}"]
    return problems if study.state == "failed" else [*problems, f"its state was {study.state}"]


def _moved(template: Study, disk: Path) -> Study:
    """Move the study to the disk, into a home folder that shares the models."""
    home = template.folder.parents[1]
    (disk / "models").symlink_to((home / "models").resolve())
    folder = disk / "studies" / template.name
    shutil.copytree(template.folder, folder)
    shutil.rmtree(template.folder)
    return Study(folder)


def _used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def _resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@contextmanager
def _disk() -> Iterator[Path | None]:
    """A disk in memory; None if mounting is not permitted."""
    with tempfile.TemporaryDirectory(prefix="fault-disk-") as scratch:
        disk = Path(scratch) / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_FREE_BYTES}", "none", str(disk)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            yield None
            return
        try:
            yield disk
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
