"""Commands of the product and pieces of Python in processes of their own, and settings of runs that take seconds."""

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from assistant_builder import cli
from assistant_builder.registry import PLUGIN_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {
    "approaches": "memory",
    "formats.types": "[]",
    "train.max_steps": 2,
    "train.batch_size": 4,
    "train.micro_batch_size": 2,
    "train.evaluations": 1,
    "train.rank": 4,
    "train.sample_answers": 0,
    "data.max_heldout": 4,
    "eval.max_new_tokens": 4,
    "eval.bootstrap_resamples": 200,
}
"""A study of two steps and four questions."""
FEW_SCORES = dict.fromkeys(
    ("eval.retention", "eval.fidelity", "eval.noise_floor", "eval.baselines", "eval.similarity"),
    False,
)
"""Nothing is scored beside the cells."""


def set_words(settings: Mapping[str, Any]) -> list[str]:
    """``--set KEY=VALUE`` for each setting."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def python(
    *words: object, ends: int | None = 0, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end.

    Args:
        words: Its arguments.
        ends: The exit code that is asserted; None: any.
        env: Variables beside those of this process.
        options: Of :func:`subprocess.run`.
    """
    settings = {"capture_output": True, "text": True, "timeout": 1800, **options}
    settings["env"] = {**os.environ, **(env or {})}
    done = subprocess.run([sys.executable, *map(str, words)], **settings)
    assert ends is None or done.returncode == ends, f"{done.stdout}\n{done.stderr}"
    return done


def command(
    line: str, *words: object, inside: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``assistant-builder LINE`` with further words that are not split.

    Args:
        line: Words of the command.
        words: Further ones.
        inside: Run it in this process, which is sooner by the seconds that imports take; ``ends`` is the only option.
        options: Of :func:`python`.
    """
    given = [*shlex.split(line), *map(str, words)]
    return (
        _inside(given, **options)
        if inside
        else python("-m", "assistant_builder", *given, **options)
    )


def _inside(words: list[str], ends: int = 0) -> subprocess.CompletedProcess[str]:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "argv", ["assistant-builder", *words]),
        mock.patch.object(cli, "limit_library_output"),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == ends, f"{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def record_of(line: str, *words: object, **options: Any) -> Any:
    """What a command prints with ``--json``."""
    return json.loads(command(line, *words, "--json", **options).stdout)


def refusal_of(line: str, *words: object, **options: Any) -> str:
    """The one line that a refused command writes."""
    done = command(line, *words, ends=1, **options)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stdout + done.stderr
    return done.stderr


@contextmanager
def serving(line: str) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """``assistant-builder serve LINE --port 0`` until the block ends: the record that it printed, and its process."""
    words = [sys.executable, "-m", "assistant_builder", "serve", *shlex.split(line)]
    with served([*words, "--port", "0", "--json"]) as (record, process):
        yield record, process


@contextmanager
def served(words: list[str]) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """A server that prints a record when it is ready, until the block ends."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            output = ""
            while not output.endswith("}\n}\n"):
                line = process.stdout.readline()
                assert line, "the server ended"
                output += line
            yield json.loads(output), process
        finally:
            process.kill()


def with_plugin(folder: Path, module: str, code: str) -> dict[str, str]:
    """Write a module into a folder; returns the variables of a process that loads it as a plugin."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    return {PLUGIN_VARIABLE: module, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
