"""Base models made to exhaust the page: its preview says so in a sentence, and the page stays as large as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.hostile_base import LONG_STRING, TEMPLATE, hostile_base, multiplying

MOST_GROWTH = 200_000_000
"""Bytes; the template makes 700 MB, the tokenizer's tokens take as much."""
LOOK = """
import json, resource, sys
from pathlib import Path
from assistant_builder.config import StudyConfig
from assistant_builder.ui import prompting

resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))  # where the page renders by itself, it gets no further
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
config = StudyConfig().with_changes({"model.base": sys.argv[2]})
before = peak()
text, lengths = prompting.seen_by_model(Path(sys.argv[1]), config, 3)
print(json.dumps({"growth": peak() - before, "text": str(text), "torch": "torch" in sys.modules}))
"""


def seen(folder: Path, tmp_path: Path) -> dict[str, object]:
    data = tmp_path / "pairs.csv"
    data.write_text("question,answer\n" + "".join(f"Who rows {row}? qqqqqqqq,Otto {row}.\n" for row in range(40)))
    done = subprocess.run([sys.executable, "-c", LOOK, str(data), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"template": LONG_STRING}, "chat template"), ({"normalizer": multiplying()}, "tokenizer")],
)
def test_the_page_stays_as_large_as_it_was(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    found = seen(hostile_base(tmp_path / "base", **changes), tmp_path)  # type: ignore[arg-type]
    assert int(str(found["growth"])) < MOST_GROWTH, f"the page grew by {found['growth']} bytes"
    assert said in str(found["text"]) and "Choose another base model" in str(found["text"])
    assert "Who rows 0?" in str(found["text"]), "the rows are shown nevertheless"


def test_a_sound_model_is_shown_with_its_template(tmp_path: Path) -> None:
    found = seen(hostile_base(tmp_path / "base", template=TEMPLATE), tmp_path)
    assert "&lt;|im_start|&gt;" in str(found["text"]) and "Choose another" not in str(found["text"])
