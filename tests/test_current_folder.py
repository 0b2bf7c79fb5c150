"""No process imports code from the current folder."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from assistant_builder.chat.client import ChatWorker, worker_command
from assistant_builder.child_process import python_command, python_environment
from assistant_builder.data import Message
from assistant_builder.doctor import diagnose
from assistant_builder.inference.chunks import Sampling
from assistant_builder.models import wheel_download
from assistant_builder.planning.probe import probe
from assistant_builder.runner.step_process import step_command
from tests.commands import ROOT, record_of, served
from tests.export.tiny import tiny_base, tiny_study
from tests.models.test_bundled import CONTENT, MEMBER, TOY, write_wheel
from tests.shadowing_modules import Shadows, installed_command
from tests.synthetic_study import new_study


@pytest.fixture
def shadows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shadows:
    """The current folder."""
    made = Shadows(tmp_path / "handed-on")
    monkeypatch.chdir(made.folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return made


def cli(*words: str) -> str:
    """Run the installed command in the current folder; returns its standard output."""
    done = subprocess.run(
        installed_command(*words), capture_output=True, text=True, env=dict(os.environ), timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.train
def test_a_trained_study_answers_chats_and_serves(shadows, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = tiny_study(tiny_base(tmp_path / "base"), "shadowed")
    answer = json.loads(
        cli("ask", "shadowed", "How much is the late fee?", "--arm", "qlora", "--json")
    )
    assert answer["answers"]["qlora"]["tokens"] > 0 and shadows.run == []

    worker = ChatWorker(worker_command(study))
    *_, replies = worker.ask({"lora": [Message("user", "How much?")]}, Sampling(max_new_tokens=2))
    worker.close()
    assert replies["lora"].error is None and shadows.run == []

    words = installed_command("serve", "shadowed:lora", "--port", "0", "--json")
    with served(words) as (ready, _):
        asked = {
            "model": "shadowed-lora",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2,
        }
        found = httpx.post(f"{ready['url']}/chat/completions", json=asked, timeout=120)
    assert found.status_code == 200 and shadows.run == []


def test_a_wheel_is_fetched(tmp_path, shadows, monkeypatch):
    write_wheel(tmp_path / "links")
    monkeypatch.delenv("ASSISTANT_BUILDER_WHEELS", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "scratch").mkdir()
    assert wheel_download.extract(TOY, tmp_path / "scratch")[MEMBER].read_bytes() == CONTENT
    assert shadows.run == []


@pytest.mark.long
def test_plan_and_doctor_use_the_installed_libraries(tmp_path, shadows):
    folder = tmp_path / "pythia"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "gpt_neox",
                "architectures": ["GPTNeoXForCausalLM"],
                "vocab_size": 64,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            }
        )
    )
    assert probe(folder).vocabulary == 64
    assert next(check["ok"] for check in diagnose()["checks"] if check["name"] == "torch")
    assert shadows.run == []


@pytest.mark.parametrize(
    "step", ["data", "data-embed", "train-lora", "evaluate", "score-1", "report"]
)
def test_every_step_starts_without_the_current_folder(step, shadows):
    words = step_command(new_study(), step)
    looked = subprocess.run(
        [*words[: words.index("-m")], "-c", "import sys; print(sys.flags.safe_path, sys.path[0])"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert looked.stdout.startswith("True ") and looked.stdout.split()[1] != str(shadows.folder)


def test_descendants_skip_the_current_folder_and_keep_the_users_path(
    tmp_path, shadows, monkeypatch
):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "of_the_user.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path / "own"), "", str(ROOT)]))
    grandchild = "import of_the_user, queue, platform"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    subprocess.run(python_command("-c", code), check=True, env=python_environment())
    assert shadows.run == [] and "PYTHONSAFEPATH" not in os.environ


def test_spawned_processes_skip_the_current_folder(tmp_path, shadows):
    """Torchrun's launcher spawns the training processes, which inherit the flag of the step."""
    script = tmp_path / "spawning.py"
    script.write_text(
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=print, args=('spawned',))\n"
        "    process.start(), process.join()\n"
        "    raise SystemExit(process.exitcode)\n",
        encoding="utf-8",
    )
    words = step_command(new_study(), "train-lora")
    done = subprocess.run(
        [*words[: words.index("-m")], str(script)], capture_output=True, text=True
    )
    assert done.stdout == "spawned\n", done.stderr
    assert shadows.run == []


def test_python_m_removes_the_current_folder_from_its_path(tmp_path, shadows):
    # the package cannot protect its own import, so the folder contains no package of that name
    for name in tuple("assistant_builder random queue socket tempfile statistics platform".split()):
        for path in (shadows.folder / name, shadows.folder / f"{name}.py"):
            path.rename(tmp_path / path.name) if path.exists() else None
    assert record_of("list") == []
    assert shadows.run == []


def test_python_processes_are_started_with_the_safe_path_flag():
    """Starting Python by its path would omit ``-P``; tasks of a cluster get a command that contains it."""
    started = {
        path.relative_to(ROOT).as_posix()
        for package in ("assistant_builder", "evals")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\[\s*sys\.executable", path.read_text(encoding="utf-8"))
    }
    assert started == {"assistant_builder/child_process.py", "assistant_builder/cluster/tasks.py"}
