"""Child processes: their command line and environment, the setup of their libraries, and their memory use.

``python -m`` and ``python -c`` put the working directory first on ``sys.path``, so a ``psutil.py`` in the folder of an
untrusted study would be executed. ``-P`` excludes it in the process and in those that :mod:`multiprocessing` spawns;
``PYTHONSAFEPATH``, which is set only for children, excludes it in all other descendants.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from assistant_builder.redaction import SECRET_VARIABLES, terminal_text

_ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains this package and ``evals``."""
_INSTALLED = ("site-packages", "dist-packages")
_POLL_SECONDS = 0.2
_LAST_BYTES = 100_000
_HANDLER = "limited standard error"
"""Name of the log handler of :func:`limit_library_output`."""
_NICENESS, _LOWEST = 10, 19
"""Of 19: a process at 0 gets about nine times as much of a shared core; an idle core is used fully."""

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""CPU quota of a container (cgroup v2): microseconds in each period, or ``max``."""


def usable_cores() -> int:
    """Cores that this process may run on, and at most the CPU quota of its container."""
    process = psutil.Process()
    cores = (
        len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    )
    return min(cores, _quota() or cores)


def _quota() -> int | None:
    """The CPU quota of the container in cores, rounded up; None without one."""
    try:
        quota, period = map(int, _CPU_QUOTA.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return None
    return max(1, -(-quota // period))


def python_command(*arguments: str) -> list[str]:
    """The argument vector of a Python process: ``python_command("-m", "evals", "score")``."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment of a Python process: that of this process, with safe paths.

    Empty entries of ``PYTHONPATH`` are removed, since Python reads them as the working directory. The folder of a
    checkout that is not installed is added.
    """
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if _ROOT.name not in _INSTALLED and str(_ROOT) not in folders:
        folders.append(str(_ROOT))
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONPATH", None)
    return {**environment, "PYTHONPATH": os.pathsep.join(folders)} if folders else environment


_HARMLESS = frozenset(
    """
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TZDIR TMPDIR TEMP TMP VIRTUAL_ENV CONDA_PREFIX XDG_CACHE_HOME
    PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONUTF8 PYTHONIOENCODING PYTHONHASHSEED PYTHONDONTWRITEBYTECODE
    PYTHONPYCACHEPREFIX PYTHONNOUSERSITE PYTHONUSERBASE COVERAGE_PROCESS_START COVERAGE_PROCESS_CONFIG
    LD_LIBRARY_PATH DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH LOCPATH GLIBC_TUNABLES
    HF_HOME HF_HUB_OFFLINE TRANSFORMERS_OFFLINE DO_NOT_TRACK HF_HUB_DISABLE_TELEMETRY ASSISTANT_BUILDER_HOME
    SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERPROFILE APPDATA LOCALAPPDATA PROGRAMDATA PROGRAMFILES
    NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE
    """.split()
)
"""Variables that Python and its libraries need, and that hold no secret; those that begin with ``LC_`` too."""


def isolated_environment() -> dict[str, str]:
    """The environment of a Python process that reads files of others: :func:`python_environment` without secrets.

    It has the variables of a list only, because nobody can list all names of keys and tokens.
    """
    return {
        name: value
        for name, value in python_environment().items()
        if name.upper() in _HARMLESS or name.upper().startswith("LC_")
    }


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the secrets that the product knows, for programs whose variables are not all known."""
    return {name: value for name, value in environment.items() if name not in SECRET_VARIABLES}


def compute_environment() -> dict[str, str]:
    """The environment of a Python process that computes with PyTorch.

    OpenMP threads that wait for one another spin, by default for so long that two processes on the same cores slow each
    other down more than ten-fold. A short spin keeps the speed of a process that has the cores to itself.

    glibc asks for huge pages (2 MB instead of 4 kB) where the kernel grants them on request, which is the default of
    most distributions. Weights and activations are then translated and faulted in 512 times as much at once, which
    virtual machines need most.

    In a container with a CPU quota there are no more threads than it has cores: PyTorch counts those of the host, and
    most of its threads would wait. Variables of the user's own are kept.
    """
    return {
        **({"OMP_NUM_THREADS": str(usable_cores())} if _quota() else {}),
        "GOMP_SPINCOUNT": "10000",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        **python_environment(),
    }


def start_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program without input in a session of its own, which outlives this process.

    Args:
        command: Its argument vector.
        environment: Its environment.
        output: File for all that it prints; by default nothing is kept.

    Raises:
        OSError: It cannot be started.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


def run_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    poll: Callable[[], None],
) -> tuple[int, str]:
    """Run a program to its end without input.

    Args:
        command: Its argument vector.
        environment: Its environment.
        poll: Called a few times a second; an exception from it kills the program.

    Returns:
        Exit code, negative for a signal, and the last line of its output.
    """
    with tempfile.TemporaryFile() as log:
        process = start_program(command, environment, log)
        try:
            while True:
                poll()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(_POLL_SECONDS)
                    return code, last_line(log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def last_line(log: IO[bytes]) -> str:
    """The last line of a program's output that is not blank."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
    lines = log.read().decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def lower_priority(pid: int, *, behind: bool = False) -> None:
    """Give a process and its later children a lower priority than the page and the user's other programs.

    ``behind`` is the lowest one, for what is computed behind a verdict that people read and an assistant that they ask.
    """
    niceness = _LOWEST if behind else _NICENESS
    with contextlib.suppress(psutil.Error):  # it has ended, or the system forbids the change
        process = psutil.Process(pid)
        if psutil.WINDOWS:
            lower, lowest = psutil.BELOW_NORMAL_PRIORITY_CLASS, psutil.IDLE_PRIORITY_CLASS
            process.nice(lowest if behind else lower)
        else:
            process.nice(max(process.nice(), niceness))
    # Linux shares a processor among sessions first, and niceness counts only within one; every step has its own.
    # A process that does not lead its session may share it with the user's terminal, which must keep its priority.
    with contextlib.suppress(OSError):
        if not psutil.WINDOWS and os.getsid(pid) == pid:
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")


def configure_libraries() -> None:
    """Set the environment variables that libraries read at import: quiet logs, no compiler, how CUDA allocates.

    cuBLAS reads its workspace setting when CUDA starts. With a fixed workspace it sums in a fixed order; torch refuses
    deterministic algorithms without it. Segments of GPU memory that can grow are not fragmented by batches of different
    lengths; only Linux has them. bitsandbytes decorates two fallbacks with ``torch.compile``, which alone would
    import PyTorch's inductor, a fifth of a process's start-up time.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        # the name before torch 2.9
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    limit_library_output(logging.WARNING)


class _Formatter(logging.Formatter):
    """Escapes what would change a terminal: messages can quote servers and files of others."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal_text(super().format(record))


def limit_library_output(level: int) -> None:
    """Let libraries write only messages of at least this level to standard error, and no progress bars.

    Python warnings count as messages of the level WARNING. Warnings of this package are always written. Must be called
    before the libraries are imported.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        own = record.name.partition(".")[0] == "assistant_builder"
        return record.levelno >= (logging.WARNING if own else level)

    os.environ.setdefault("TQDM_DISABLE", "1")
    for library in (
        "TRANSFORMERS",
        "HF_HUB",
        "DATASETS",
    ):
        # their loggers do not use the root logger
        os.environ[f"{library}_VERBOSITY"] = logging.getLevelName(level).lower()
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(_Formatter(logging.BASIC_FORMAT))
    # not the level of the root logger, because some libraries set that of their own logger
    handler.addFilter(is_shown)
    root = logging.getLogger()
    if all(known.name == _HANDLER for known in root.handlers):
        root.handlers = [handler]


def memory_bytes(device: str) -> int:
    """Bytes that this process uses now: allocated on the GPU, or resident in RAM."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def peak_memory_bytes(device: str) -> int:
    """The most bytes that this process has used so far: allocated on the GPU, or resident in RAM."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
