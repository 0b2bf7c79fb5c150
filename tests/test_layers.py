"""Which way imports go, where torch and gradio may be, and that the light half of the product stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("assistant_builder", "evals")

# The longest prefix counts. A module imports from its own level and from lower ones.
LEVELS = {
    "assistant_builder": 0,
    "assistant_builder.errors": 0,
    "assistant_builder.redaction": 0,
    "assistant_builder.telemetry": 0,
    "assistant_builder.child_process": 0,
    "assistant_builder.registry": 0,
    "assistant_builder.quantization": 0,
    "assistant_builder.arms": 0,
    "assistant_builder.store_kinds": 0,
    "assistant_builder.export_formats": 3,
    "assistant_builder.config": 0,
    "assistant_builder.error_translation": 0,
    "assistant_builder.atomic_io": 1,
    "assistant_builder.study": 1,
    "assistant_builder.web": 2,
    "assistant_builder.data": 1,
    "assistant_builder.models": 2,
    "assistant_builder.devices": 2,
    "assistant_builder.doctor": 3,
    "assistant_builder.provenance": 3,
    "assistant_builder.planning": 3,
    "assistant_builder.training": 3,
    "assistant_builder.chat": 3,
    "assistant_builder.runner": 4,
    "assistant_builder.store": 4,
    "assistant_builder.cluster": 4,
    "assistant_builder.serving": 5,
    "evals": 4,
    "evals.metrics": 0,  # leaves: settings look metrics up, by the registry's place
    "evals.stats": 0,
    "assistant_builder.export": 5,
    "assistant_builder.cli": 5,
    "assistant_builder.cli.output": 5,
    "assistant_builder.ui": 5,
    "assistant_builder.__main__": 6,
    "app": 6,
}
# steps are processes, started by argument list, so that their memory is released and closing the page ends no run
COMPUTING = ("assistant_builder.training", "assistant_builder.chat", "assistant_builder.serving", "evals")
FORBIDDEN = {
    # a local run passes through no code of stores or clusters; runner.backend names their modules as strings
    "assistant_builder.runner": ("assistant_builder.store", "assistant_builder.cluster", *COMPUTING),
    "assistant_builder.store": ("assistant_builder.cluster", *COMPUTING),
    "assistant_builder.cluster": COMPUTING,
    "assistant_builder.serving": (
        "assistant_builder.training", "assistant_builder.ui", "assistant_builder.cli", "evals",
    ),
    "assistant_builder.training": ("assistant_builder.chat",),
    "assistant_builder.chat": ("assistant_builder.training",),
    "assistant_builder.study": ("assistant_builder.data",),
    "assistant_builder.planning": ("assistant_builder.training", "assistant_builder.chat"),
}
HEAVY = {"torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "lm_eval", "sentence_transformers"}
# Modules that only worker processes import; every other module must do without the heavy libraries, also indirectly.
WORKERS = (
    "assistant_builder.models.loading",
    "assistant_builder.models.lora_layers",
    "assistant_builder.models.loading",
    "assistant_builder.models.merging",
    "assistant_builder.inference.prepacked_linear",
    "assistant_builder.inference.packed_batch",
    "assistant_builder.planning.probe",
    "assistant_builder.training",
    "assistant_builder.chat",
    "evals",
)
# parts of these packages that the page, the command line and the report use
LIGHT = (
    "assistant_builder.chat.client",
    "assistant_builder.chat.feedback",
    "evals.metrics",
    "evals.compare",
    "evals.stats",
    "evals.report",
    "evals.study_compare",
    "evals.judge.pairwise",
    "assistant_builder.sweep",
)


def module_files() -> dict[str, Path]:
    files = {}
    for path in [*(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")), ROOT / "app.py"]:
        if path.is_file():
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def level(name: str) -> int:
    return LEVELS[max((prefix for prefix in LEVELS if under(name, prefix)), key=len)]


def imported(tree: ast.AST, *, whole: bool) -> Iterator[str]:
    """Names a module imports; without ``whole`` only what importing it imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif whole or not skipped_on_import(node):
            yield from imported(node, whole=whole)


def skipped_on_import(node: ast.AST) -> bool:
    types_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return types_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


@cache
def imports(name: str, *, whole: bool) -> frozenset[str]:
    """Our own modules, and the top-level names of others, that a module imports."""
    found = set()
    for target in imported(ast.parse(FILES[name].read_text(encoding="utf-8")), whole=whole):
        if target.split(".")[0] in (*PACKAGES, "app"):
            found.add(target if target in FILES else target.rpartition(".")[0])
        else:
            found.add(target.split(".")[0])
    return frozenset(found)


def loaded_with(name: str) -> dict[str, str]:
    """Everything that importing a module imports, with the module that does it."""
    seen: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        package = module.rpartition(".")[0]  # importing a module imports its package first
        for target in imports(module, whole=False) | ({package} & FILES.keys()):
            if target not in seen:
                seen[target] = module
                if target in FILES:
                    waiting.append(target)
    return seen


def is_worker(name: str) -> bool:
    return any(under(name, prefix) for prefix in WORKERS) and name not in PACKAGES and not is_light(name)


def is_light(name: str) -> bool:
    return any(under(name, prefix) for prefix in LIGHT)


def test_no_module_is_left_out():
    assert {"assistant_builder", "evals", "assistant_builder.errors"} <= FILES.keys()
    assert not [name for name in FILES if name.split(".")[-1] in ("utils", "helpers", "common")]
    places = LEVELS.keys() - {"assistant_builder"}
    unplaced = [name for name in FILES if not any(under(name, place) for place in places)]
    assert unplaced == ["assistant_builder"], "every module of assistant_builder has its place in LEVELS"


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_downwards(name: str):
    for target in imports(name, whole=True) & FILES.keys():
        assert level(target) <= level(name), f"{name} imports {target}"
        for source, targets in FORBIDDEN.items():
            if under(name, source):
                assert not any(under(target, forbidden) for forbidden in targets), f"{name} imports {target}"
        if under(target, "evals") and not under(name, "evals"):
            assert level(name) > level("evals"), f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_gradio_is_in_the_page_only(name: str):
    if "gradio" in imports(name, whole=True):
        assert under(name, "assistant_builder.ui") or name == "app"
        assert name != "assistant_builder.ui.views" and not under(name, "assistant_builder.ui.views")


@pytest.mark.parametrize("name", sorted(name for name in FILES if not is_worker(name)))
def test_light_modules_load_nothing_heavy(name: str):
    heavy = {target: source for target, source in loaded_with(name).items() if target in HEAVY}
    assert not heavy, f"{name} loads {heavy}"


def test_importing_the_light_half_loads_no_torch():
    names = [name for name in FILES if not is_worker(name) and name not in ("app", "assistant_builder.__main__")]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted(sys.modules.keys() & {HEAVY})\n"
        "    assert not loaded, (name, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
