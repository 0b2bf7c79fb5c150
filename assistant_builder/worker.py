"""What every step's process does around its work: say that it runs, and how it ended.

A step is its own process, so that its memory is given back and its peak can be told, and so that closing the page ends
no run. The process that runs the steps leaves the step's inputs in its status file before it starts this one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import psutil

from assistant_builder.atomic_io import file_hash
from assistant_builder.child_process import python_environment
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import Cancelled
from assistant_builder.redaction import redact_secrets
from assistant_builder.steps import State, process_mark
from assistant_builder.study import Study

Work = Callable[[], Iterable[Path] | None]
"""Does the step; returns the files it made, or None when it has to wait for another step."""
NODE_VARIABLE = "ASSISTANT_BUILDER_NODE"
"""Names the node of the cluster to the step's process that a task started there."""
_NICENESS = 10
"""Of 19: a process at 0 beside it gets nine times its share of a core, and all of it is used where nobody else asks."""


def run_as_step(study: Study, step: str, work: Work) -> int:
    """Run ``work`` as a step of the study and record the outcome, the done-marker last.

    Args:
        study: The study.
        step: Name of the step.
        work: What the step does.

    Returns:
        Exit code: 0 done or waiting, 1 failed, 3 cancelled.
    """
    prepare_libraries()
    node = os.environ.get(NODE_VARIABLE)
    if node is not None:
        threading.Thread(target=_end_with_watcher, daemon=True).start()
    before = study.step(step)
    record = replace(
        before, state="running", pid=os.getpid(), process_started=process_mark(os.getpid()),
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
            study.release_reserve()  # a full disk must not hide how the step ended
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
        with contextlib.suppress(OSError):  # the log lies on the same disk
            sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        return 1
    if files is None:
        finish("queued")
    else:
        finish("succeeded", outputs=outputs)
    return 0


def _end_with_watcher() -> None:
    """End this process once the task that watches it is gone: nobody would know that it still writes.

    The watcher holds the other end of standard input, which the system closes however the watcher ends.
    """
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def child_environment() -> dict[str, str]:
    """The environment of a process that computes.

    Threads of PyTorch that wait for one another spin, by default for so long that two processes on the same cores slow
    each other down more than ten-fold. A short spin keeps the speed of a process that has the cores for itself.
    """
    return {"GOMP_SPINCOUNT": "10000", **python_environment()}


def step_back(pid: int) -> None:
    """Let a process that computes give way to the page and to whatever else the user does.

    Args:
        pid: The process, just started: what it starts later inherits the priority.
    """
    with contextlib.suppress(psutil.Error):  # it has ended, or the system does not let us
        process = psutil.Process(pid)
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if psutil.WINDOWS else max(process.nice(), _NICENESS))
    # Linux shares the processor among sessions first, and niceness counts only within one; every step has its own.
    # The session of a process that leads none is somebody else's, the user's terminal say.
    with contextlib.suppress(OSError):
        if not psutil.WINDOWS and os.getsid(pid) == pid:
            Path(f"/proc/{pid}/autogroup").write_text(str(_NICENESS), encoding="ascii")


def prepare_libraries() -> None:
    """Before the libraries are imported: keep their chatter out of the logs, and a compiler that nobody needs out.

    cuBLAS reads its workspace setting when CUDA starts; with a fixed one its sums have one order, and torch's
    deterministic algorithms are refused without it.

    bitsandbytes decorates two fallbacks with ``torch.compile``, which alone imports all of PyTorch's inductor, a fifth
    of the time that a process takes to start.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def _peak_memory() -> int:
    from assistant_builder.training.progress import peak_memory_bytes

    torch = sys.modules.get("torch")
    # zero where this process has left the GPU alone: a step that starts others to train, or computes on the processor
    allocated = peak_memory_bytes("cuda") if torch is not None and torch.cuda.is_available() else 0
    return allocated or peak_memory_bytes("cpu")
