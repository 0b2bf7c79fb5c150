"""An export format that a module outside the product registers: on the page, in the report, and exported."""

import json
from pathlib import Path

import pytest

from tests.commands import command, python, with_plugin
from tests.synthetic_study import finished_study

FORMAT = """
from assistant_builder.export_formats import EXPORT_FORMATS, ExportFormat, Snippet


class Digest(ExportFormat):
    name = "digest"
    label = "Digest"
    noun = "digest"
    explanation = "the name of the base in a text file"
    contents = "One text file."

    def cell(self, arm):
        return {"qlora": "QR", "lora": "LR"}.get(arm)

    def estimated_bytes(self, summary):
        return 4321

    def write(self, source, folder):
        (folder / "digest.txt").write_text(source.base_name)
        return ["A digest answers no questions."]

    def snippets(self, context):
        return [Snippet("shell", "In a terminal", "shell", f"cat {context.folder}/digest.txt")]

    def summary(self, arm, arm_label):
        return f"A digest of {arm_label}."


EXPORT_FORMATS.register(Digest())
"""
PAGE = """
import json
from assistant_builder.export_formats import ExportSpec
from assistant_builder.study import Study
from assistant_builder.ui.export.tab import ExportTab
from assistant_builder.ui.refresh import StudyView
from evals.report.build import write_report
from tests.ui.blocks import inside_blocks

study = Study.open("library")
write_report(study)
tab = inside_blocks(ExportTab)
view = StudyView(study.name)
shown = {section.key: section.values(view) for section in tab.sections()}
print(json.dumps({
    "choices": tab.panel.format.choices, "advice": str(shown["export-choice"][-1]),
    "panel": str(tab.panel.updates(study, ExportSpec("lora", "digest"), local=True)[tab.panel.state]),
}))
"""


@pytest.fixture
def environment(tmp_path: Path, home: Path) -> dict[str, str]:
    """Environment of a process that loads the format."""
    return {**with_plugin(tmp_path, "digest_plugin", FORMAT), "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_page_report_and_help_show_the_format(environment):
    study = finished_study()
    shown = json.loads(python("-c", PAGE, env=environment).stdout)
    assert shown["choices"][-1] == ["Digest: the name of the base in a text file", "digest"]
    assert "Digest: <b>" in shown["advice"]
    assert "One text file." in shown["panel"] and "4.32 kB" in shown["panel"]
    report = json.loads((study.folder / "report.json").read_text())
    assert {row["cell"]: row["formats"] for row in report["exports"]} == {
        "Q4": ["adapter"],
        "Q16": [],
        "QD": ["merged"],
        "QR": ["prequantized", "digest"],
        "L16": ["adapter"],
        "L4": [],
        "LM": ["merged"],
        "LR": ["prequantized", "digest"],
    }
    for name in ("report.html", "report.md"):
        assert "--format prequantized or digest" in (study.folder / name).read_text()
    output = " ".join(command("export --help", env=environment).stdout.split())
    assert "digest: the name of the base in a text file" in output
    assert "adapter|merged|prequantized|gguf|digest" in output
