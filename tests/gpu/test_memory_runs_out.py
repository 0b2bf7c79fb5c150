"""GPU memory that runs out is reported with a remedy, and loaded models continue to answer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from assistant_builder.runner.step_process import step_command
from tests.gpu.conftest import environment, log_end, new_study, short_of_memory, start, step

pytestmark = [pytest.mark.gpu, pytest.mark.train]
MEGABYTE = 2**20


@pytest.mark.parametrize("arm", ["lora", "qlora"])
def test_training_out_of_memory_names_a_remedy(base, tmp_path, arm):
    study = new_study(
        "large",
        base,
        train__batch_size=64,
        train__micro_batch_size=64,
        train__max_steps=2,
        train__gradient_checkpointing="off",
    )
    words = short_of_memory(
        step_command(study, f"train-{arm}"), loads=1, spare_bytes=32 * MEGABYTE, folder=tmp_path
    )
    assert start(study, f"train-{arm}", words).wait() == 1, log_end(study, f"train-{arm}")
    record = study.step(f"train-{arm}")
    assert record.state == "failed" and record.error is not None
    assert record.error["type"] == "ResourceError", record.error
    assert "memory" in record.error["what"] and "CUDA out of memory" not in record.error["what"]
    assert "train.micro_batch_size" in record.error["remedy"]
    step(study, f"train-{arm}")  # with its memory back it runs as if nothing had been


def test_chat_keeps_the_loaded_arm(trained, tmp_path):
    words = short_of_memory(
        [sys.executable, "-m", "assistant_builder.serving.chat", "--study", str(trained.folder)],
        loads=1,
        spare_bytes=40 * MEGABYTE,
        folder=tmp_path,
    )
    with Chat(words) as chat:
        assert chat.ask("1", "lora")["event"] == "end"
        failed = chat.ask("2", "qlora")
        assert failed["event"] == "error" and "memory" in failed["error"]["what"], failed
        assert failed["error"]["remedy"]
        assert chat.ask("3", "lora")["event"] == "end", "the loaded arm is gone"
        assert chat.process.poll() is None


class Chat:
    """The chat's process, which answers one question at a time."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def ask(self, identity: str, arm: str) -> dict[str, Any]:
        """Ask, and wait for the event that ends the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {
            "op": "ask",
            "id": identity,
            "arm": arm,
            "messages": [{"role": "user", "content": "When?"}],
            "sampling": {"max_new_tokens": 4},
        }
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pytest.fail(f"the chat's process ended before question {identity}")
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event.get("id") == identity and event["event"] in ("end", "error"):
                return event
        pytest.fail(f"the chat's process ended at question {identity}")
