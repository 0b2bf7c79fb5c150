"""Base models that try to exhaust memory: the page shows an error and its memory does not grow."""

from pathlib import Path

import pytest

from tests.models.hostile_base import LONG_STRING, TEMPLATE, hostile_base, multiplying, watched

LOOK = """
import json, sys
from pathlib import Path
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ModelError
from assistant_builder.ui.data import preview

config = StudyConfig().with_changes({"model.base": sys.argv[2]})
try:
    found = preview.rows_too_long(Path(sys.argv[1]), config)
except ModelError as error:
    found = error
print(json.dumps(str(found)))
"""


def seen(folder: Path, tmp_path: Path) -> str:
    data = tmp_path / "pairs.csv"
    data.write_text(
        "question,answer\n"
        + "".join(f"Who rows {row}? {'q' * 4000},Otto {row}.\n" for row in range(5))
    )
    return str(watched(LOOK, str(data), str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"template": LONG_STRING}, "chat template"), ({"normalizer": multiplying()}, "tokenizer")],
)
def test_the_memory_of_the_page_does_not_grow(changes, message, tmp_path):
    found = seen(hostile_base(tmp_path / "base", **changes), tmp_path)
    assert message in found and "Choose another base model" in found


def test_long_rows_of_a_valid_model_are_counted(tmp_path):
    found = seen(hostile_base(tmp_path / "base", template=TEMPLATE), tmp_path)
    assert found.startswith("{2: ") and "Choose another" not in found
