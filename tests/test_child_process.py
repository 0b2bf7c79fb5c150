"""Child processes: the environment of those that compute."""

import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from assistant_builder import child_process
from assistant_builder.child_process import (
    compute_environment,
    peak_memory_bytes,
    python_command,
    usable_cores,
)

_GRANTS = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ALLOCATED = """
values = bytearray(64_000_000)
values[::4096] = bytes(len(values[::4096]))
print(open("/proc/self/smaps_rollup").read())
"""


def has_huge_pages() -> bool:
    name, version = platform.libc_ver()
    return (
        name == "glibc"
        and tuple(map(int, version.split(".")[:2])) >= (2, 35)
        and _GRANTS.is_file()
        and "[never]" not in _GRANTS.read_text()
    )


@pytest.mark.skipif(
    sys.platform != "linux" or not has_huge_pages(), reason="needs huge pages and glibc 2.35"
)
def test_a_process_that_computes_has_its_memory_in_huge_pages(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    done = subprocess.run(
        python_command("-c", _ALLOCATED),
        env=compute_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"^AnonHugePages:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    assert found and int(found[1]) > 32_000


def test_log_lines_do_not_change_the_terminal():
    code = """
import logging
from assistant_builder.child_process import limit_library_output
limit_library_output(logging.WARNING)
logging.getLogger("s3").warning("refused: %s", "\\x1b[2J\\u202e")
"""
    done = subprocess.run(
        python_command("-c", code), capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stderr == "WARNING:s3:refused: ␛[2J\\u202e\n"


def test_tunables_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert compute_environment()["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has expandable segments")
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "own"}, "own"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "own"}, ""),
    ],
)
def test_segments_of_gpu_memory_can_grow_unless_the_user_sets_it(own, expected):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    environment = {
        key: value for key, value in compute_environment().items() if key not in names
    } | own
    asked = (
        "import os; from assistant_builder.child_process import configure_libraries; configure_libraries(); "
        "print(os.environ.get('PYTORCH_ALLOC_CONF', ''))"
    )
    done = subprocess.run(
        python_command("-c", asked), env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_the_peak_memory_is_known_without_the_module_resource(monkeypatch):
    assert peak_memory_bytes("cpu") > 10**6
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    info = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5_000_000))
    monkeypatch.setattr("psutil.Process", lambda: info)
    assert peak_memory_bytes("cpu") == 5_000_000


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("", 64)]
)
def test_threads_are_limited_to_the_cpu_quota_of_a_container(tmp_path, monkeypatch, quota, cores):
    file = tmp_path / "cpu.max"
    file.write_text(quota, encoding="utf-8")
    monkeypatch.setattr(child_process, "_CPU_QUOTA", file)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == cores
    threads = compute_environment().get("OMP_NUM_THREADS")
    assert threads == (str(cores) if cores < 64 else None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert compute_environment()["OMP_NUM_THREADS"] == "3"
