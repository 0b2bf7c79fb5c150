"""The recipes of CONTRIBUTING.md: each module is written to a folder, named as a plugin, and found in the product."""

import re

import pytest

from tests.commands import ROOT, python, with_plugin

RECIPES = {
    name: code
    for code, name in re.findall(
        r'```python\n("""(\w+)\.py:.*?)```',
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
}
"""Name of the module → its text."""
CHECKS = {
    "length_metric": """
from assistant_builder.config import StudyConfig
from evals.metrics import METRICS, score_answer
assert list(METRICS)[-1] == "length_match"
assert score_answer("one two", "one two three four")["length_match"] == 0.5
assert "length_match" not in score_answer("one", "")
config = StudyConfig().with_changes({"eval.primary_metric": "length_match"})
from evals.declaration import HeldOut, declare
declared = declare(config, HeldOut({}, frozenset()), ())
assert (declared.primary_metric, declared.margin) == ("length_match", 0.05)
""",
    "fp4_arm": """
from assistant_builder.arms import ARMS, CELLS
from assistant_builder.config import StudyConfig
assert list(ARMS) == ["lora", "qlora", "qat", "fp4"] and CELLS["F4"].adapter == "fp4"
assert StudyConfig().arms == ["lora", "qlora"]
config = StudyConfig().with_changes({"arms": "lora,qlora,fp4"})
assert config.arms == ["lora", "qlora", "fp4"] and {"F4", "F4M"} <= set(config.cells)
assert "fp4" in help_of("ask") and "fp4" in help_of("export")
""",
    "npz_format": """
import tempfile
from types import SimpleNamespace
import numpy as np
from safetensors.numpy import save_file
from assistant_builder.export_formats import EXPORT_FORMATS
entry = EXPORT_FORMATS["npz"]
assert entry.cell("qlora") == "Q4" and entry.cell("lora") == "L16"
text = " ".join(help_of("export").split())
assert "adapter|merged|prequantized|gguf|npz" in text and entry.explanation in text
folder = Path(tempfile.mkdtemp())
(folder / "adapter").mkdir()
save_file({"a": np.arange(3, dtype=np.float32)}, folder / "adapter" / "adapter_model.safetensors")
study = SimpleNamespace(arm_folder=lambda arm: folder)
assert entry.write(SimpleNamespace(study=study, arm="lora"), folder)
assert np.load(folder / "adapter.npz")["a"].tolist() == [0, 1, 2]
assert "adapter.npz" in entry.snippets(SimpleNamespace(folder="out"))[0].text
""",
    "notes_tab": """
import asyncio
from assistant_builder.ui.app import build_app, ready_steps
from assistant_builder.ui.refresh import StudyView
from tests.synthetic_study import new_study
from assistant_builder.ui.tabs import TABS

async def built():  # gradio opens an event loop where none is running, and never closes it
    return build_app()

assert "notes" not in ready_steps(StudyView("")) and "notes" in ready_steps(StudyView(new_study("first").name))
page = asyncio.run(built())
titles = [block.label for block in page.demo.blocks.values() if type(block).__name__ == "Tab" and block.id in TABS]
assert titles[-2:] == ["Inbox", "Notes"]
region = next(region for region in page.sections if region.key == "notes")
assert region.values(StudyView("first")) == [""]
import notes_tab
notes_tab.write_notes("first", "Ask for more pairs.")
assert region.values(StudyView("first")) == ["Ask for more pairs."]
""",
}
PREAMBLE = """
import sys
from pathlib import Path
from typer.testing import CliRunner

def help_of(command):
    from assistant_builder.cli import app
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
"""


def test_every_recipe_is_checked():
    assert RECIPES.keys() == CHECKS.keys()


@pytest.mark.parametrize("module", CHECKS)
def test_recipe_adds_its_entry(module, tmp_path, home):
    environment = with_plugin(tmp_path, module, RECIPES[module])
    light = (
        ""
        if module == "notes_tab"
        else "heavy = {'torch', 'transformers', 'gradio'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    code = f"{PREAMBLE}{CHECKS[module]}{light}print('checked')"
    assert python("-c", code, env=environment).stdout.endswith("checked\n")
