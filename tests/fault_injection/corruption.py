"""Seeded bit flips and truncations of a study's files: each must be detected, and ``--redo`` must repair it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.runner.invalidation import damaged_outputs, first_stale_step
from assistant_builder.study import Study
from tests.fault_injection.study import Row, copy_of, differences, run

REPAIRED = tuple(
    """
    arms/qlora/adapter/adapter_model.safetensors arms/lora/status.json evals/Q4/samples.jsonl
    evals/status.json
""".split()
)
"""Files that are damaged one after the other and rebuilt with ``--redo``."""


def damage_files(reference: Study, wanted: dict[str, Any], times: int, seed: int) -> Row:
    """Damage one file of a finished study at a time: it is refused with a remedy, or no result depends on the file."""
    row = Row("a bit flipped or a file cut, finished study")
    study = copy_of(reference, "damaged")
    draw = random.Random(f"damage/{seed}")
    files = [path for path in sorted(study.folder.rglob("*")) if _counts(path)]
    for _ in range(times):
        path = draw.choice(files)
        kept = path.read_bytes()
        what = corrupt(path, draw)
        row.add(True, "")
        row.compare(_accepted(study, wanted), f"{what} in {path.relative_to(study.folder)}")
        path.write_bytes(kept)
    shutil.rmtree(study.folder)
    return row


def repair_damage(
    reference: Study, wanted: dict[str, Any], seed: int, log: Callable[[str], None]
) -> Row:
    """Damage a file, check that the run is refused, and rebuild it with ``--redo``: the result must be the same."""
    row = Row("damaged, then run with --redo")
    study = copy_of(reference, "repaired")
    draw = random.Random(f"repair/{seed}")
    for name in REPAIRED:
        log(f"repaired: {corrupt(study.folder / name, draw)} in {name}, then --redo")
        code, output = run(study)
        row.add(True, "")
        if not code or "--redo" not in output:
            row.lost.append(f"{name}: a damaged file was not refused")
        code, output = run(study, "--redo")
        row.compare(
            differences(study, wanted) if code == 0 else [output.strip().splitlines()[-1]], name
        )
    return row


def corrupt(path: Path, draw: random.Random) -> str:
    """Flip one bit of a file or truncate it.

    Returns:
        A description of the damage.
    """
    status, content = path.stat(), bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        content[place] ^= 1 << draw.randrange(8)
        what = f"bit flipped at byte {place}"
    else:
        del content[place:]
        what = f"cut to {place} bytes"
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    return what


def _counts(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and not path.name.endswith("log.txt")


def _accepted(study: Study, wanted: dict[str, Any]) -> list[str]:
    """Problems of a run that would continue with the study as it is; empty if it is refused with a remedy."""
    try:
        study.status()
        first_stale_step(study, redo=False)
        if damaged_outputs(study, study.step("report")):
            return []  # detected: the next run writes the report again
        return differences(study, wanted)
    except AssistantBuilderError as error:
        return [] if error.remedy else [f"refused without a remedy: {error}"]
    except Exception as error:  # whatever it is, the user would have seen a traceback
        return [f"{type(error).__name__}: {error}"]
