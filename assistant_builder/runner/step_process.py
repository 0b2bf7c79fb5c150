"""The process of a step: its command, and the records of its start, result and peak memory.

Each step has its own process, so that its memory is released and measured, and so that closing the page ends no run.
The runner writes the step's inputs into its status file before it starts the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from assistant_builder.atomic_io import file_hash
from assistant_builder.child_process import configure_libraries, peak_memory_bytes, python_command
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import Cancelled
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study
from assistant_builder.study.locks import process_identity
from assistant_builder.study.steps import State

Work = Callable[[], Iterable[Path] | None]
"""Function that does the work of a step; returns its files, or None if it must wait for another step."""
NODE_VARIABLE = "ASSISTANT_BUILDER_NODE"
"""Environment variable with the name of the cluster node that runs the process."""


def step_command(study: Study, step: str) -> list[str]:
    """The command line of a step's process."""
    if step.startswith("score-"):
        part = f"{step.removeprefix('score-')}/{study.config.evaluation_shards}"
        module, *words = ("evals", "score", "--part", part)
    elif step in ("evaluate", "formats", "report"):
        module, *words = ("evals", "score" if step == "evaluate" else step)
    else:
        module, *words = ("assistant_builder", "step", step)
    return python_command("-m", module, *words, "--study", str(study.folder))


def run_as_step(study: Study, step: str, work: Work) -> int:
    """Run ``work`` as a step and record its result; exit codes: 0 done or waiting, 1 failed, 3 cancelled."""
    configure_libraries()
    node = os.environ.get(NODE_VARIABLE)
    if node is not None:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    before = study.step(step)
    record = replace(
        before,
        state="running",
        pid=os.getpid(),
        process_started=process_identity(os.getpid()),
        started=before.started or time.time(),
        error=None,
        node=node,
    )
    began = time.monotonic()

    def finish(state: State, **changes: object) -> None:
        ended = replace(
            record,
            state=state,
            seconds=before.seconds + time.monotonic() - began,
            peak_memory_bytes=max(before.peak_memory_bytes or 0, _peak_memory()),
            **changes,  # type: ignore[arg-type]
        )
        try:
            study.write_step(ended)
        except OSError:
            study.release_disk_space()  # the result must be recorded on a full disk too
            study.write_step(ended)

    try:
        study.write_step(record)
        files = work()
        outputs = {str(path.relative_to(study.folder)): file_hash(path) for path in files or ()}
    except Cancelled:
        finish("cancelled")
        return 3
    except BaseException as error:
        finish("failed", error=translate_error(error).to_record())
        with contextlib.suppress(OSError):  # the log is on the same disk
            sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        return 1
    if files is None:
        finish("queued")
    else:
        finish("succeeded", outputs=outputs)
    return 0


def _exit_with_parent() -> None:
    """Kill this process group when the cluster task that started it ends, because nobody renews its lease then.

    The task has the other end of standard input, which the operating system closes when the task ends.
    """
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _peak_memory() -> int:
    torch = sys.modules.get("torch")
    # zero if this process did not use the GPU because it computes on the CPU or started other processes
    allocated = peak_memory_bytes("cuda") if torch is not None and torch.cuda.is_available() else 0
    return allocated or peak_memory_bytes("cpu")
