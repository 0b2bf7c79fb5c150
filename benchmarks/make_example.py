"""``python -m benchmarks.make_example``: run the study of the finished example and pack it into the package.

Adapters are rounded to float16 before they are scored, so that the scores are those of the adapters in the archive.
What a finished study does not need is left out: checkpoints, logs, progress, and the processes that ran the steps.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant_builder import api
from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.cli.options import parse_settings
from assistant_builder.config import load_config
from assistant_builder.models.bundled import ensure_base_model, ensure_embedder
from assistant_builder.runner.backend import Event
from assistant_builder.runner.display import run_display
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study, home
from assistant_builder.study.example import example_archive, example_folder

MOST_BYTES = 6_000_000
"""Size of the archive at most."""
_LEFT_OUT = ("checkpoints", "run.json", "*log.txt", "*.progress.json", ".*")
_DATE = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # of all files in the archive, so that it depends on their content alone


def main(arguments: list[str] | None = None) -> int:
    """Run the study in a home of its own and write the archive; 1 if it is too large."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_example", description=__doc__)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, for a trial"
    )
    parser.add_argument(
        "--to", type=Path, default=example_archive(), metavar="FILE", help="the archive"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="home of the study, to resume an interrupted run"
    )
    options = parser.parse_args(arguments)
    ensure_base_model()
    ensure_embedder()
    models = home() / "models"
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "models").exists():
            (work / "models").symlink_to(models)
        os.environ["ASSISTANT_BUILDER_HOME"] = str(work)
        study = _study(parse_settings(options.set))
        with run_display() as display:

            def on_event(event: Event) -> None:
                display(event)
                if event.state == "succeeded" and not event.reused:
                    _adjust(study, event.step)

            run_study(study, on_event=on_event)
        pack(study, options.to)
        print("\n".join(api.Study(study).conclusion))
    size = options.to.stat().st_size
    print(f"{options.to}: {size:,} bytes")
    return int(size > MOST_BYTES)


def _study(changes: dict[str, Any]) -> Study:
    """The study in the present home, which is created if necessary; its settings name the data file without a path."""
    config = load_config(example_folder() / "study.yaml")
    if any(study.name == config.name for study in Study.all()):
        return Study.open(config.name)
    source = Path(config.data.source)
    return Study.create(config.with_changes({**changes, "data.source": source.name}), source)


def _adjust(study: Study, step: str) -> None:
    """Round the adapter of a training; leave the name of this machine's kernel out of the provenance."""
    if step.startswith("train-"):
        round_adapter(study, step)
    elif step == "data-embed":
        path = study.folder / "provenance.json"
        write_json(
            path, {**read_json(path), "platform": f"{platform.system()} {platform.machine()}"}
        )


def round_adapter(study: Study, step: str) -> None:
    """Store the adapter of a finished training in float16, and record its new hash."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = study.arm_folder(step.removeprefix("train-"))
    weights, summary = folder / "adapter" / "adapter_model.safetensors", folder / "summary.json"
    rounded = {name: value.astype(np.float16) for name, value in load_file(weights).items()}
    save_file(rounded, weights, metadata={"format": "pt"})
    write_json(summary, {**read_json(summary), "adapter_sha256": file_hash(weights)})
    status = read_json(study.status_file(step))
    status["outputs"] = {name: file_hash(study.folder / name) for name in status["outputs"]}
    write_json(study.status_file(step), status)


def pack(study: Study, archive: Path) -> None:
    """Write the files of a finished study into a ZIP archive."""
    processes = {"pid": None, "process_started": None}
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(_needed(study.folder)):
            if path in map(study.status_file, study.steps):
                write_json(path, {**read_json(path), **processes})
            name = zipfile.ZipInfo(path.relative_to(study.folder).as_posix(), _DATE)
            packed.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def _needed(folder: Path) -> Iterator[Path]:
    """The files of a study folder that a finished study needs."""
    for path in folder.rglob("*"):
        parts = [Path(part) for part in path.relative_to(folder).parts]
        if path.is_file() and not any(
            part.match(pattern) for part in parts for pattern in _LEFT_OUT
        ):
            yield path


if __name__ == "__main__":
    sys.exit(main())
