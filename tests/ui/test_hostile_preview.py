"""Base models that try to exhaust memory: the preview shows an error and the memory of the page does not grow."""

from pathlib import Path

import pytest

from tests.models.hostile_base import LONG_STRING, TEMPLATE, hostile_base, multiplying, watched

LOOK = """
import json, sys
from pathlib import Path
from assistant_builder.config import StudyConfig
from assistant_builder.ui.data import preview

config = StudyConfig().with_changes({"model.base": sys.argv[2]})
print(json.dumps(str(preview.template_preview(Path(sys.argv[1]), config, 3))))
"""


def seen(folder: Path, tmp_path: Path) -> str:
    data = tmp_path / "pairs.csv"
    data.write_text(
        "question,answer\n"
        + "".join(f"Who rows {row}? qqqqqqqq,Otto {row}.\n" for row in range(40))
    )
    return str(watched(LOOK, str(data), str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"template": LONG_STRING}, "chat template"), ({"normalizer": multiplying()}, "tokenizer")],
)
def test_the_memory_of_the_page_does_not_grow(changes, message, tmp_path):
    found = seen(hostile_base(tmp_path / "base", **changes), tmp_path)
    assert message in found and "Choose another base model" in found


def test_a_valid_model_is_shown_with_its_template(tmp_path):
    found = seen(hostile_base(tmp_path / "base", template=TEMPLATE), tmp_path)
    assert "&lt;|im_start|&gt;" in found and "Choose another" not in found
