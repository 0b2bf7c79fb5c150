"""Train one arm on several devices of this machine: a process for each, started and watched by torchrun's own launcher.

The process of the step starts them, and stays who tells how the step ended; the first of them writes what a training
writes. Imports torch inside functions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.files import read_json, write_json
from assistant_builder.mishaps import explained
from assistant_builder.planning.plan import Plan
from assistant_builder.planning.spreading import Spread
from assistant_builder.processor import usable_cores
from assistant_builder.study import Study
from assistant_builder.tokens import without_tokens

_ERROR_FILE = ".rank-error.json"
_WATCH_SECONDS = 0.5
_CANCELLED = "cancelled"


def train_on_ranks(study: Study, run: str, spread: Spread, planned: Plan | None = None) -> list[Path] | None:
    """Train an arm with one process a device.

    Args:
        study: The study, its data prepared.
        run: The training run.
        spread: More than one device.
        planned: The plan that all of them follow; None: each makes its own.

    Returns:
        The files made; None when early stop is on and the arm has to wait for its twin.

    Raises:
        Cancelled: The user asked for it; the last step is kept.
        AssistantBuilderError: A process failed, with what it said.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    told = study.arm_folder(run) / _ERROR_FILE
    told.unlink(missing_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // spread.devices)))
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=spread.devices, run_id=f"{study.name}-{run}", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", start_method="spawn",
    )
    try:
        ended = elastic_launch(launch, _rank)(str(study.folder), run, spread, planned)
    except ChildFailedError as error:
        if told.exists():
            said = read_json(told)
            raise AssistantBuilderError(said["what"], where=said["where"], remedy=said["remedy"]) from error
        rank, failure = error.get_first_failure()
        raise AssistantBuilderError(
            f"process {rank} of the {spread.devices} that train together ended with code {failure.exitcode}",
            where=f"step train-{run}",
            remedy="Most likely memory ran out: lower train.micro_batch_size or set executor.spread=fsdp. Running "
            "again carries on from the last checkpoint",
        ) from error
    if ended[0] == _CANCELLED:
        raise Cancelled("cancelled on request")
    return None if ended[0] is None else [Path(name) for name in ended[0]]


def _rank(folder: str, run: str, spread: Spread, planned: Plan | None) -> list[str] | str | None:
    """What each process does: train its share; the launcher's environment says which it is."""
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    from assistant_builder.training.arm import train_here
    from assistant_builder.worker import prepare_libraries

    prepare_libraries()
    study = Study(Path(folder))
    try:
        files = train_here(study, run, spread, planned)
        return None if files is None else [str(path) for path in files]
    except Cancelled:
        return _CANCELLED
    except Exception as error:
        _tell(study.arm_folder(run) / _ERROR_FILE, error)
        sys.stderr.write(without_tokens("".join(traceback.format_exception(error))))
        raise


def _tell(path: Path, error: Exception) -> None:
    """Leave word of what failed first; the others fail because of it."""
    record: dict[str, Any] = explained(error).to_record()
    if not path.exists():
        with contextlib.suppress(OSError):
            write_json(path, record)


def _end_with_launcher(launcher: int) -> None:
    """End this process once its launcher is gone: nobody would know that it still writes."""
    while os.getppid() == launcher:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
