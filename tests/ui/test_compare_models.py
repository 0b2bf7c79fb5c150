"""The form of the home screen that compares two models on the user's own questions."""

import os
import time
from pathlib import Path

import pytest

from assistant_builder.ui.home import compare_models
from assistant_builder.ui.home.compare_models import ModelComparison, comparison_view
from evals.model_compare.process import Comparisons
from tests.evals.model_compare.test_judge import facts, write_log, write_questions
from tests.ui.blocks import inside_blocks


@pytest.fixture
def form(home: Path, monkeypatch: pytest.MonkeyPatch) -> ModelComparison:
    monkeypatch.setattr(compare_models, "COMPARISONS", Comparisons())
    monkeypatch.setattr(compare_models, "offer", lambda path, name: str(path))
    return inside_blocks(ModelComparison)


def press(form: ModelComparison, file: Path | str, *words: str, local: bool = True) -> str:
    values = {form.file: str(file), form.first: words[0], form.second: words[1]}
    return str(form._begin(values, local=local)[form.shown])


def until_ended() -> str:
    ends = time.monotonic() + 60
    while compare_models.COMPARISONS.state.phase == "running" and time.monotonic() < ends:
        time.sleep(0.1)
    return str(comparison_view())


def test_two_models_are_compared_and_the_verdict_stays(form, tmp_path):
    pairs = facts(60)
    questions = write_questions(tmp_path / "rooms.jsonl", pairs)
    right, wrong = (
        str(write_log(tmp_path / f"samples_{name}.jsonl", answers))
        for name, answers in (("a", pairs), ("b", dict.fromkeys(pairs, "code 0")))
    )
    assert "The models are being compared" in press(form, questions, right, wrong)
    assert "another comparison is running" in press(form, questions, right, wrong)
    shown = until_ended()
    assert "Last comparison: rooms-" in shown and "worse" in shown
    assert form._draw()[form.download]["visible"]
    press(form, questions, right, str(tmp_path / "missing.gguf"))
    shown = until_ended()
    assert "missing.gguf" in shown and "Last comparison: rooms-" in shown


def test_comparisons_of_somebody_else_have_no_links_and_pipes(form, home):
    folder = home / "judgements" / "theirs"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"sentence": "<b>worse</b>"}')
    page, secret = folder / "report.html", home / "secret"
    secret.write_text("a key")
    page.symlink_to(secret)
    assert str(comparison_view()) == "" and not form._draw()[form.download]["visible"]
    page.unlink()
    os.mkfifo(page)  # would wait for ever
    assert str(comparison_view()) == ""
    page.unlink()
    page.write_bytes(b"\xff<p>")
    assert "&lt;b&gt;worse" in str(comparison_view())


def test_words_that_name_nothing_are_no_error_of_the_page(form, tmp_path):
    for word in ("x" * 5000, "~nobody-of-this-name/model", "a\0b"):
        assert not compare_models._names_a_file(word)
    for word in ("x" * 5000, "a\0b", "a\nb"):
        assert "of a wrong type" in press(form, tmp_path / "q.csv", word, "owner/name")


def test_what_is_missing_or_of_another_computer_is_refused(form, tmp_path):
    assert "the file or a model is missing" in press(form, "", "a", "b")
    assert "the file or a model is missing" in press(form, tmp_path / "q.csv", "a", " ")
    for word in (
        "/etc/passwd",
        "/etc/passwd@httpx",
        "model.GGUF",
        "~/model",
        "model.gguf",
        str(tmp_path),
    ):
        refused = press(form, tmp_path / "q.csv", "owner/name", word, local=False)
        assert "is a file of the computer that runs this page" in refused
    assert compare_models.COMPARISONS.state.phase == "off"
