"""A chat worker without models whose assistants repeat the question."""

import sys
from pathlib import Path

import assistant_builder

ROOT = Path(assistant_builder.__file__).parents[1]
FAKE_WORKER = """
import os, signal, sys, time
from assistant_builder.inference.session import Chunk
from assistant_builder.chat.answer_server import run_server
from assistant_builder.errors import ModelError

class Parrot:
    holds_models = True
    def __init__(self):
        self.loaded = set()
    def ready(self, arm):
        return arm in self.loaded
    def load(self, arm, report):
        if arm not in self.loaded:
            report("Teaching the parrot", 0.4)
            time.sleep(0.05)
            self.loaded.add(arm)
    def stream(self, arm, messages, sampling, stop_event):
        print("a library prints to standard output")
        question = messages[-1].content
        if question == "decline":
            yield Chunk("I do not know.", 3, 0.1, 0.2, "stop", declined=True)
            return
        if question == "near miss":
            offered = {"mode": "tuned", "suggestions": ["one question", "another"]}
            offered |= {"reason": "Nothing is near.", "advice": "Add a row.", "why": [None, None]}
            yield Chunk("I do not know.", 3, 0.1, 0.2, "stop", declined=True, judged=offered)
            return
        if question == "die":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(7)
        if question == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "refuse":
            raise ModelError("there is no trained adapter", where="arm " + arm, remedy="Train the study first")
        if question == "bug":
            raise RuntimeError("shape mismatch")
        if question == "starve":
            raise RuntimeError("could not create a primitive")
        words = question.split() * (3000 if question.startswith("long") else 1)
        for number, word in enumerate(words, start=1):
            time.sleep(0.02)
            if stop_event.is_set():
                yield Chunk("", number, 0.1, 0.2, "cancelled")
                return
            yield Chunk(arm + ":" + word + " ", number, 0.1, number * 0.2)
        yield Chunk("\\u2713", len(words), 0.1, 0.5, "stop")

run_server(Parrot(), idle_seconds=float(sys.argv[1]))
"""


def parrot_command(folder: Path, idle_seconds: float = 60) -> list[str]:
    """The command line of the worker; "long …" makes an answer of minutes, "die" and "kill" end the process.

    Args:
        folder: Where the script is put.
        idle_seconds: After how long it ends by itself.
    """
    script = folder / "parrot.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{FAKE_WORKER}", encoding="utf-8"
    )
    return [sys.executable, str(script), str(idle_seconds)]
