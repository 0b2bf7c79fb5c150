"""What shell blocks find on their PATH: ``python -m tests.documents.programs NAME WORDS…``.

``assistant-builder`` is the real command line with small settings. Its steps write the results of
:mod:`tests.synthetic_study`, or are real ones on the base model that :data:`BASE` names. Servers end once they are
ready. ``make`` shows what it would do.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.documents.blocks import ROOT

if TYPE_CHECKING:
    from assistant_builder.runner.backend import Event
    from assistant_builder.study import Study

BASE = "DOCUMENTS_TEST_BASE"
"""Environment variable with the folder of a tiny base model; without it nothing is trained."""
NAMES = ("assistant-builder", "make", "python", "lm-eval")
SMALL = {"data.max_train": "24", "data.max_heldout": "8", "eval.bootstrap_resamples": "200"}
TINY = {
    **SMALL,
    "retrieval.train_embedder": "false",
    "formats.types": "[]",
    "train.max_steps": "2",
    "train.evaluations": "1",
    "train.rank": "4",
    "train.micro_batch_size": "4",
    "train.batch_size": "8",
    "train.sample_answers": "0",
    "eval.max_new_tokens": "4",
    "eval.cells": "[B16,L16,Q4]",
    "eval.retention": "false",
    "eval.fidelity": "false",
    "eval.noise_floor": "false",
    "eval.baselines": "false",
}
SYNTHETIC = {**SMALL, "approaches": "memory", "formats.types": "[]"}


def install(folder: Path) -> None:
    """Write the programs into a folder for the PATH."""
    folder.mkdir()
    for name in NAMES:
        path, python = folder / name, shlex.quote(sys.executable)
        path.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
            f'exec {python} -m tests.documents.programs {name} "$@"\n',
            encoding="utf-8",
        )
        path.chmod(0o755)


def _settings() -> dict[str, str]:
    base = os.environ.get(BASE)
    return {**TINY, "model.base": base} if base else SYNTHETIC


def assistant_builder(words: list[str]) -> None:
    """The command line, in this process."""
    if words[0] in ("serve", "app") and "--port" not in words:
        raise SystemExit(
            _until_ready([sys.executable, "-m", "assistant_builder", *words, "--port", "0"])
        )
    changes = _settings()
    if words[:2] == ["data", "draft"] and BASE in os.environ:
        words += ["--set", f"model.base={changes['model.base']}"]
    if words[0] in ("run", "sweep"):
        words += [word for setting in changes.items() for word in ("--set", "=".join(setting))]
    if BASE not in os.environ:
        _replace_steps()
    from assistant_builder.cli import main

    sys.argv = ["assistant-builder", *words]
    main()


def _until_ready(command: Sequence[str]) -> int:
    """Start a server, and end it once it prints its address; returns 0, or its exit code if it prints none."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if "http://127.0.0.1:" in line:
                server.terminate()
                server.stdout.read()
                return 0
        return server.wait() or 1


def _replace_steps() -> None:
    """Runs write synthetic results instead of starting their steps."""
    from assistant_builder.runner import run

    run.run_study = write_synthetic_results


def write_synthetic_results(
    study: Study, *, on_event: Callable[[Event], None] = lambda event: None, **_: object
) -> None:
    """What replaces a run."""
    from assistant_builder.runner.backend import Event
    from tests.synthetic_study import evaluated, reported, trained, with_data

    if study.state != "succeeded":
        reported(evaluated(trained(with_data(study))))
    for step in study.steps:
        on_event(Event(step, "succeeded"))


def main(name: str, *words: str) -> None:
    """Run a program."""
    if name == "assistant-builder":
        return assistant_builder(list(words))
    if name == "make":
        os.execvp(
            "/usr/bin/env",
            ["env", "-i", f"PATH={os.defpath}", "make", "-n", "-C", str(ROOT), *words],
        )
    if name == "lm-eval":
        os.execv(sys.executable, [sys.executable, "-m", "lm_eval", *words])
    changes = _settings()
    more = [f"{key}={value}" for key, value in changes.items() if key != "model.base"]
    if words[0].endswith("train_and_compare.py"):
        words += tuple(more) + (
            (f"model.base={changes['model.base']}",) if BASE in os.environ else ()
        )
    if words[0].endswith("compare_bases.py"):
        words = (
            *(os.environ[BASE] if word == "smollm2-135m-instruct" else word for word in words),
            *more,
            "arms=qlora",
            "approaches=memory",
            "eval.similarity=false",
        )
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
