"""Base models made to exhaust the page: its preview says so in a sentence, and the page stays as large as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.hostile_base import LONG_STRING, TEMPLATE, hostile_base, multiplying, watched

LOOK = """
import json, sys
from pathlib import Path
from assistant_builder.config import StudyConfig
from assistant_builder.ui.data import preview

config = StudyConfig().with_changes({"model.base": sys.argv[2]})
print(json.dumps(str(preview.seen_by_model(Path(sys.argv[1]), config, 3)[0])))
"""


def seen(folder: Path, tmp_path: Path) -> str:
    data = tmp_path / "pairs.csv"
    data.write_text("question,answer\n" + "".join(f"Who rows {row}? qqqqqqqq,Otto {row}.\n" for row in range(40)))
    return str(watched(LOOK, str(data), str(folder)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"template": LONG_STRING}, "chat template"), ({"normalizer": multiplying()}, "tokenizer")],
)
def test_the_page_stays_as_large_as_it_was(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    found = seen(hostile_base(tmp_path / "base", **changes), tmp_path)  # type: ignore[arg-type]
    assert said in found and "Choose another base model" in found
    assert "Who rows 0?" in found, "the rows are shown nevertheless"


def test_a_sound_model_is_shown_with_its_template(tmp_path: Path) -> None:
    found = seen(hostile_base(tmp_path / "base", template=TEMPLATE), tmp_path)
    assert "&lt;|im_start|&gt;" in found and "Choose another" not in found
