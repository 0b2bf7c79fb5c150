"""That what the project says of itself fits together: versions, bounds, licence, and what it imports."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [
    Requirement(text)
    for name in ("audit", "documents", "gguf", "ray")
    for text in PROJECT["optional-dependencies"][name]
]
"""What parts of the product import where it is installed."""
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(
    "requirement", [*REQUIREMENTS, *EXTRAS], ids=lambda requirement: requirement.name
)
def test_every_dependency_is_bounded_on_both_sides(requirement):
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {">=", "<"}


def test_constraints_fit_the_bounds():
    exact = {constraint.name.lower().replace("_", "-"): constraint for constraint in CONSTRAINTS}
    for requirement in [*REQUIREMENTS, *EXTRAS]:
        constraint = exact[requirement.name.lower()]
        if requirement.name == "torch":  # which build fits is the machine's matter
            assert {specifier.operator for specifier in constraint.specifier} == {">=", "<"}
            continue
        (pinned,) = constraint.specifier
        assert pinned.operator == "==" and "+" not in pinned.version
        assert requirement.specifier.contains(pinned.version), requirement.name


def test_extras_are_installed_from_the_clone_as_the_package_is_on_no_index():
    files = [
        *ROOT.glob("*.md"),
        *(
            path
            for folder in ("assistant_builder", "evals", "benchmarks", "docs")
            for pattern in ("*.py", "*.md")
            for path in (ROOT / folder).rglob(pattern)
        ),
    ]
    named = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"assistant-builder\[[a-z]+\](?! @ )", text), path
        named += re.findall(r"install_command\('(\w+)'\)|pip install -e '\.\[(\w+)\]'", text)
    assert {name for pair in named for name in pair if name} >= {"gguf", "ray"}
    assert {name for pair in named for name in pair if name} <= set(
        PROJECT["optional-dependencies"]
    )


def test_every_import_is_a_declared_dependency():
    declared = {
        requirement.name.lower().replace("_", "-") for requirement in [*REQUIREMENTS, *EXTRAS]
    }
    providers = importlib.metadata.packages_distributions()
    undeclared = set()
    for path in [
        *ROOT.glob("assistant_builder/**/*.py"),
        *ROOT.glob("evals/**/*.py"),
        *ROOT.glob("app.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for top in {name.split(".")[0] for name in names} - {"assistant_builder", "evals", ""}:
                if top in sys.stdlib_module_names:
                    continue
                found = {
                    provider.lower().replace("_", "-") for provider in providers.get(top, [top])
                }
                if not found & declared:
                    undeclared.add(f"{top} in {path.relative_to(ROOT)}")
    assert not undeclared


@pytest.mark.parametrize(
    ("target", "dev"), [("demo", False), ("app", False), ("test", True), ("check", True)]
)
def test_users_install_no_developers_tools(target, dev):
    done = subprocess.run(
        ["make", "-nB", target, "SERVE=0"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    install = (
        r"install --disable-pip-version-check -c constraints\.txt +-e '\.\[documents,gguf\]'\n"
    )
    assert re.search(install, done.stdout) and "extra-index" not in done.stdout
    assert ("[dev]" in done.stdout) == dev
    tools = {"ray", "moto", "playwright", "mypy", "pytest", "s3fs"}
    assert not tools & {requirement.name for requirement in REQUIREMENTS}


def test_make_says_what_it_downloads_and_can_leave_cuda_out():
    said = {
        torch: subprocess.run(
            ["make", "-nB", "app", *torch], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for torch in ((), ("TORCH=cpu",))
    }
    assert re.search(r"about (3\.3|0\.5) GB .* are downloaded", said[()])
    cpu = said["TORCH=cpu",]
    assert "about 0.5 GB are downloaded" in cpu
    assert "--extra-index-url https://download.pytorch.org/whl/cpu -e '.[documents,gguf]'" in cpu


def test_documents_install_the_wheel_of_this_version():
    named = {
        version
        for page in ROOT.glob("docs/*.md")
        for version in re.findall(r"assistant_builder-([\d.]+)-py3", page.read_text("utf-8"))
    }
    assert named == {PROJECT["version"]}


def test_the_image_is_made_of_files_that_exist_and_starts_a_command_that_does():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line[0] == "!"} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "setup.py", "README.md", "assistant_builder", "evals"} <= copied
    (words,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    assert words[0] == "app" and set(words[1::2]) <= {"--host", "--auth"}
