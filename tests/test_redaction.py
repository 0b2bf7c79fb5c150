"""A canary for a token: steps run with it, and a hub repeats it in its errors, and it is found nowhere."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assistant_builder.child_process import without_secrets
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ModelError
from assistant_builder.redaction import (
    MASK,
    SECRET_VARIABLES,
    redact_secrets,
    terminal_json,
    terminal_text,
)
from assistant_builder.study import Study
from tests.http_server import Handler, Server, running

ROOT = Path(__file__).parents[1]
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"
TOKEN = "hf_canaryCANARYcanaryCANARYcanary1234"
KEY = "judge-canary-key"


class Repeating(Handler):
    """A hub that answers every request with an error that holds what it was sent."""

    asked: list[str] = []

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.asked.append(sent)
        why = f"refused {sent}"
        # the reason stands in the first line of what the library raises
        self.send(418, f"no: {sent}".encode(), {"X-Error-Message": why}, why)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names are those of the library


@pytest.fixture
def hub() -> Iterator[str]:
    Repeating.asked.clear()
    with running(Server(Repeating)) as server:
        yield server.endpoint


def command(home: Path, hub: str, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    settings |= {
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home / "hub"),
        "PYTHONPATH": str(ROOT),
        "ASSISTANT_BUILDER_JUDGE_KEY": KEY,
    }
    return subprocess.run(
        [sys.executable, "-m", "assistant_builder", *words],
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=home.parent,
    )


def assert_nowhere(home: Path, *done: subprocess.CompletedProcess[str]) -> None:
    for process in done:
        assert "canary" not in (process.stdout + process.stderr).lower()
    for path in home.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes().lower(), path


def test_a_hub_that_repeats_the_token_gets_it_into_no_answer(home, hub):
    home.mkdir()
    planned = command(home, hub, "plan", "me/echo")
    assert planned.returncode == 1 and MASK in planned.stderr
    assert f"Bearer {TOKEN}" in Repeating.asked, "the canary was sent, and came back"
    assert_nowhere(home, planned)


@pytest.mark.parametrize(("base", "code"), [("me/echo", 1), ("smollm2-135m-instruct", 0)])
def test_a_step_writes_no_token(bundled_models, home, hub, base, code):
    study = Study.create(StudyConfig().with_changes({"name": "told", "model.base": base}), FERRIES)
    done = command(home, hub, "step", "data", "--study", str(study.folder))
    assert done.returncode == code, done.stderr
    record = study.step("data")
    assert record.state == ("failed" if code else "succeeded")
    if record.error is not None:
        assert MASK in record.error["what"] and MASK in done.stderr
        assert f"Bearer {TOKEN}" in Repeating.asked
    assert_nowhere(study.folder, done)


def test_tokens_are_taken_out_of_errors(monkeypatch, tmp_path):
    file = tmp_path / "token"
    file.write_text("my-own-token\n", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", str(file))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("ASSISTANT_BUILDER_JUDGE_KEY", KEY)
    text = f"{TOKEN}, {KEY}, my-own-token, hf_anotherTokenOfSomebody, hf_hub, a word"
    assert redact_secrets(text) == f"{MASK}, {MASK}, {MASK}, {MASK}, hf_hub, a word"
    error = ModelError(
        f"the hub said {TOKEN}", where=f"me/{KEY}", remedy="hf_anotherTokenOfSomebody"
    )
    assert str(error) == f"me/{MASK}: the hub said {MASK}. {MASK}"
    assert "canary" not in str(error.to_record()) and "canary" not in repr(error)
    monkeypatch.setenv("ASSISTANT_BUILDER_JUDGE_KEY", "a")
    assert redact_secrets("a cat") == "a cat", "what is too short to be a token is no token"


HOSTILE = (
    "\x1b[2J\x9b31m\x9d0;title\x9c\x7f\r\b \u202eesrever\u2066\u2028new\u200f\ufeff\ud800\U000e0041"
)


def test_a_terminal_gets_nothing_that_moves_hides_or_reorders_text():
    for shown in (
        terminal_text(HOSTILE),
        str(ModelError(HOSTILE, where=HOSTILE, remedy=HOSTILE)),
        terminal_json(json.dumps(HOSTILE, ensure_ascii=False)),
    ):
        assert shown.isprintable() and "\\u202eesrever" in shown and shown.encode("utf-8")
    assert json.loads(terminal_json(json.dumps([HOSTILE], ensure_ascii=False, indent=2))) == [
        HOSTILE
    ]
    for text in ("Größe 5\u00a0€\tx\n", "שלום עולם", "می\u200cخواهم", "👩\u200d💻", "日本語\u3000"):
        assert terminal_text(text) == terminal_json(text) == text


def test_the_command_line_prints_through_one_module():
    """Otherwise a command could forget to escape what somebody else wrote."""
    printing = {"print", "typer.echo", "typer.secho", "click.echo", "sys.stdout", "sys.stderr"}
    for path in sorted((ROOT / "assistant_builder" / "cli").glob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {ast.unparse(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)}
        assert path.name == "output.py" or not printing & names, path.name


def test_every_secret_of_the_product_is_known(monkeypatch):
    """All names of keys and passwords in the code are in the one list, from which errors and children are made."""
    sources = (
        path
        for package in ("assistant_builder", "evals")
        for path in (ROOT / package).rglob("*.py")
    )
    named = {
        name
        for path in sources
        for name in re.findall(
            r"ASSISTANT_BUILDER_\w*(?:KEY|TOKEN|SECRET|PASSWORD)\b",
            path.read_text(encoding="utf-8"),
        )
    }
    assert len(named) >= 4 and named <= set(SECRET_VARIABLES)
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, f"canary {name}")
        assert "canary" not in str(ModelError(f"refused: canary {name}"))
    assert not any("canary" in value for value in without_secrets(os.environ).values())
