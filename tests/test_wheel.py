"""The built wheel in an environment of its own: what is in it, and that it works without the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "assistant_builder/datasets_cards"
CONSOLE_SCRIPT = "Scripts/assistant-builder.exe" if os.name == "nt" else "bin/assistant-builder"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the files that it is made of; the repository stays without build folders."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("assistant_builder", "evals", "datasets_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and by a .pth file the dependencies of this one, but not the repository."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # .pth files of the folder itself are not read, so an editable installation of the repository stays out
    (Path(paths["purelib"]) / "dependencies.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )
    return folder


def pip(*words: str) -> None:
    """Run pip without the package index."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            *words[: 2 * (words[0] == "--python")],
            "--disable-pip-version-check",
            *words[2 * (words[0] == "--python") :],
            "--no-index",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def run(folder: Path, home: Path, program: str, *words: str) -> str:
    """Run a program of the environment in an empty folder; returns its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(folder / program), *words],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "ASSISTANT_BUILDER_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def examples(folder: Path, home: Path) -> list[Path]:
    """The example datasets that the installed program finds; nothing of it comes from the repository."""
    code = (
        "import json, assistant_builder, evals\n"
        "from assistant_builder.study.example import datasets_folder\n"
        "shipped = sorted(datasets_folder().glob('*/data.*'), key=lambda path: -path.stat().st_size)\n"
        "files = [assistant_builder.__file__, evals.__file__, *map(str, shipped)]\n"
        "print(json.dumps(files))"
    )
    files = [Path(name) for name in json.loads(run(folder, home, "bin/python", "-c", code))]
    assert all(path.is_relative_to(folder) for path in files), files
    return files[2:]


def test_the_wheel_has_the_product_and_its_examples_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"assistant_builder", "evals"}
    kept = {"data.jsonl", "data.csv", "study.yaml", "study.zip", "README.md"}  # no screenshots
    wanted = {
        f"assistant_builder/{path.relative_to(ROOT).as_posix()}"
        for path in ROOT.glob("datasets_cards/*/*")
        if path.name in kept
    }
    assert {name for name in names if name.startswith(EXAMPLES)} == wanted and len(wanted) == 9
    tracked = {
        path.relative_to(ROOT).as_posix()
        for package in ("assistant_builder", "evals")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".md", ".pyc")
    }
    assert tracked <= set(names), (
        "files of the packages are missing in the wheel: see package-data in pyproject.toml"
    )


def test_developers_tools_are_not_imported_by_the_product():
    tools = re.compile(r"^\s*(?:from|import) (?:benchmarks|tests)\b", re.MULTILINE)
    for path in [*ROOT.glob("assistant_builder/**/*.py"), *ROOT.glob("evals/**/*.py")]:
        assert not tools.search(path.read_text(encoding="utf-8")), path


@pytest.mark.long
def test_the_installed_program_checks_itself_and_an_example(installed, tmp_path):
    doctor = json.loads(run(installed, tmp_path, CONSOLE_SCRIPT, "doctor", "--json"))
    assert {check["name"] for check in doctor["checks"] if check["ok"]} >= {
        "python",
        "torch",
        "transformers",
    }
    for file, rows in zip(examples(installed, tmp_path), (940, 640, 48), strict=True):
        found = json.loads(
            run(installed, tmp_path, CONSOLE_SCRIPT, "data", "check", str(file), "--json")
        )
        assert (found["usable"], found["rows"]) == (rows, rows)
    assert (
        json.loads(run(installed, tmp_path, CONSOLE_SCRIPT, "example", "--json"))["state"]
        == "succeeded"
    )
