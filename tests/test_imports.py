"""What importing loads, and that the import contracts of pyproject.toml name every package."""

import tomllib
from pathlib import Path

import assistant_builder
import evals
from tests.commands import python

ROOT = Path(assistant_builder.__file__).parents[1]
HEAVY = set(
    """
    torch transformers trl peft bitsandbytes accelerate datasets lm_eval sentence_transformers
""".split()
)
# what the page, the command line, a run and a report import, by package or module
LIGHT = tuple(
    """
    assistant_builder.arms assistant_builder.chat.client assistant_builder.chat.feedback
    assistant_builder.cli assistant_builder.config assistant_builder.data
    assistant_builder.devices assistant_builder.doctor assistant_builder.export.card
    assistant_builder.export.job assistant_builder.export_formats
    assistant_builder.models.catalog assistant_builder.models.chat_template
    assistant_builder.models.fetch assistant_builder.planning assistant_builder.provenance
    assistant_builder.quantization assistant_builder.registry assistant_builder.runner
    assistant_builder.serving.app assistant_builder.store assistant_builder.study
    assistant_builder.sweep assistant_builder.ui assistant_builder.web evals.compare evals.judge
    evals.metrics evals.report evals.stats evals.study_compare
""".split()
)


def modules() -> list[str]:
    """Names of all modules of the product."""
    names = []
    for package in (assistant_builder, evals):
        for path in Path(package.__path__[0]).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def test_import_contracts_name_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    found = {".".join(name.split(".")[:2]) for name in modules()} - {"assistant_builder", "evals"}
    assert found == placed


def test_no_module_has_a_name_that_says_nothing():
    assert not [
        name
        for name in modules()
        if name.rpartition(".")[2] in ("utils", "helpers", "common", "misc")
    ]


def test_importing_the_light_modules_loads_no_heavy_library():
    names = [
        name
        for name in modules()
        if any(name == light or name.startswith(light + ".") for light in LIGHT)
    ]
    assert len(names) > 100
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted(sys.modules.keys() & {HEAVY})\n"
        "    assert not loaded, (name, loaded)\n"
    )
    python("-c", code, *names)
