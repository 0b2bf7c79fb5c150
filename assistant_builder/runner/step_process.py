"""The process of a step: it records that the step runs, does the work, and records how the step ended.

Each step is a process of its own, so that its memory is released and its peak is measured, and so that closing the page
ends no run. The runner writes the step's inputs into its status file before it starts the process.
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
from assistant_builder.child_process import configure_libraries, peak_memory_bytes
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import Cancelled
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study
from assistant_builder.study.locks import process_identity
from assistant_builder.study.steps import State

Work = Callable[[], Iterable[Path] | None]
"""Does the step; returns the files it made, or None if it has to wait for another step."""
NODE_VARIABLE = "ASSISTANT_BUILDER_NODE"
"""Environment variable with the name of the cluster node on which a task started the process."""


def run_as_step(study: Study, step: str, work: Work) -> int:
    """Run ``work`` as a step of the study and record its result; the status ``succeeded`` is written last.

    Args:
        study: The study.
        step: Name of the step.
        work: The function that does the step.

    Returns:
        Exit code: 0 done or waiting, 1 failed, 3 cancelled.
    """
    configure_libraries()
    node = os.environ.get(NODE_VARIABLE)
    if node is not None:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    before = study.step(step)
    record = replace(
        before, state="running", pid=os.getpid(), process_started=process_identity(os.getpid()),
        started=before.started or time.time(), error=None, node=node,
    )
    began = time.monotonic()

    def finish(state: State, **changes: object) -> None:
        ended = replace(
            record, state=state, seconds=before.seconds + time.monotonic() - began,
            peak_memory_bytes=max(before.peak_memory_bytes or 0, _peak_memory()), **changes,  # type: ignore[arg-type]
        )
        try:
            study.write_step(ended)
        except OSError:
            study.release_disk_space()  # a full disk must not hide how the step ended
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
    """Kill this process group once the cluster task that started it has ended, because nothing renews its lease then.

    The task holds the other end of standard input, which the system closes however the task ends.
    """
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _peak_memory() -> int:
    torch = sys.modules.get("torch")
    # zero if this process did not use the GPU: it computes on the CPU, or starts other processes that train
    allocated = peak_memory_bytes("cuda") if torch is not None and torch.cuda.is_available() else 0
    return allocated or peak_memory_bytes("cpu")
