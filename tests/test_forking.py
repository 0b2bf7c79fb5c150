"""Programs in forks of a process with imported libraries behave as those of a process of their own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from assistant_builder.child_process import compute_environment, python_command
from assistant_builder.forking import Fork, Preloaded, Process, start_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux")
PROGRAM = """\"\"\"A program.\"\"\"
import atexit, json, os, sys, time
if __name__ == "__main__":
    atexit.register(print, "the end", flush=True)
    exec(sys.argv[1])
"""
STATE = (
    "import colorsys; print(json.dumps([sys.argv[1:], os.getsid(0) == os.getpid(), os.nice(0), os.getcwd(), "
    "dict(os.environ), os.getpid(), sorted(os.listdir('/proc/self/fd')), sys.modules['__main__'].__doc__]))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program")
    (path / "a_program.py").write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def preloaded(folder: Path) -> Iterator[Preloaded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        found = Preloaded(["json", "no_such_module"])
    yield found
    found.close()


def start(
    preloaded: Preloaded | None, code: str, log: IO[bytes], folder: Path, **options: Any
) -> Process:
    return start_python(
        python_command("-m", "a_program", code),
        {**compute_environment(), "PYTHONPATH": str(folder), "CANARY": "1"},
        preloaded=preloaded,
        stderr=log,
        **{"piped": False, "nice": "lower", **options},
    )


def output(preloaded: Preloaded | None, code: str, folder: Path) -> tuple[int, str]:
    with tempfile.TemporaryFile() as log:
        code_of_exit = start(preloaded, code, log, folder).wait(60)
        log.seek(0)
        return code_of_exit, log.read().decode()


def test_a_fork_has_what_a_process_of_its_own_has(preloaded, folder):
    states = []
    for source in (preloaded, None):
        code, text = output(source, STATE, folder)
        state, end = text.splitlines()
        assert (code, end) == (0, "the end")
        states.append(json.loads(state))
    fork, own = states
    for state in states:
        del state[5]  # process id
    environment, expected = fork.pop(4), own.pop(4)
    assert fork == own
    set_by_libraries = {key for key in environment if key.endswith("_VERBOSITY")}
    for key in expected.keys() - set_by_libraries - {"LC_CTYPE"}:
        assert environment[key] == expected[key]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("sys.exit(3)", 3), ("1/0", 1), ("os.kill(os.getpid(), 9)", -9), ("os._exit(0)", 0)],
)
def test_exit_codes_and_errors_are_those_of_the_program(preloaded, folder, code, expected):
    found, text = output(preloaded, code, folder)
    assert found == expected
    assert ("ZeroDivisionError" in text) == (code == "1/0")


def test_requests_and_answers_go_through_pipes(preloaded, folder):
    with tempfile.TemporaryFile() as log:
        process = start(
            preloaded,
            "[print(line.strip().upper(), flush=True) for line in sys.stdin]",
            log,
            folder,
            piped=True,
        )
        assert isinstance(process, Fork) and process.stdin and process.stdout
        with process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"HELLO\n" and process.poll() is None
            process.stdin.close()
            assert process.stdout.read() == b"the end\n" and process.wait(60) == 0


def test_a_fork_is_killed_and_waited_for(preloaded, folder):
    with tempfile.TemporaryFile() as log:
        process = start(preloaded, "time.sleep(600)", log, folder)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        assert process.wait(60) == -9 and process.poll() == -9
        assert process.pid is not None and not psutil.pid_exists(process.pid)


def test_threads_may_wait_for_one_fork(preloaded, folder):
    """The page asks whether a worker runs while another thread waits for its end."""
    with tempfile.TemporaryFile() as log:
        process = start(preloaded, "time.sleep(0.3); sys.exit(5)", log, folder)

        def poll_to_the_end() -> int:
            while (code := process.poll()) is None:
                pass
            return code

        with ThreadPoolExecutor(8) as threads:
            waits = [threads.submit(process.wait, 60) for _ in range(4)]
            polls = [threads.submit(poll_to_the_end) for _ in range(4)]
            assert {each.result(90) for each in (*waits, *polls)} == {5}


def test_a_fork_outlives_the_process_that_it_was_made_from(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(folder))
    source = Preloaded([])
    with tempfile.TemporaryFile() as log:
        process = start(
            source, f"time.sleep(0.5); open({str(tmp_path / 'done')!r}, 'w')", log, folder
        )
        while process.pid is None:
            time.sleep(0.01)
        source.close()
        assert process.wait(60) == 0 and (tmp_path / "done").exists()
        # without it, programs have a process of their own
        own = start(source, "pass", log, folder)
        assert isinstance(own, subprocess.Popen) and own.wait(60) == 0


def test_the_process_ends_with_the_one_that_started_it(folder):
    code = (
        "from assistant_builder.forking import Preloaded; found = Preloaded([]); "
        "print(found._process.pid, flush=True); input()"
    )
    process = subprocess.Popen(
        python_command("-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    source = psutil.Process(int(process.stdout.readline()))
    with process:
        process.kill()
    source.wait(60)


def test_other_commands_are_not_forked(preloaded):
    with tempfile.TemporaryFile() as log:
        process = start_python(
            [sys.executable, "-c", "pass"],
            os.environ,
            preloaded=preloaded,
            stderr=log,
            piped=False,
        )
        assert isinstance(process, subprocess.Popen) and process.wait(60) == 0


@pytest.mark.parametrize(
    ("available", "driver", "platform", "expected"),
    [(4, False, "linux", True), (1, False, "linux", False), (4, True, "linux", False), (4, False, "darwin", False)],
)  # fmt: skip
def test_forks_are_made_only_where_they_are_safe(
    monkeypatch, available, driver, platform, expected
):
    made: list[Any] = []
    monkeypatch.setattr(Preloaded, "__init__", lambda self, modules: made.append(modules))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": available * 2**30})
    )
    monkeypatch.setattr(sys, "platform", platform)
    found = Preloaded.where_safe(["json"], gpu_driver=driver)
    assert (found is not None) == expected == (made == [["json"]])
