"""A comparison in a child process, for the page: ``python -m evals.model_compare.process QUESTIONS A B …``.

It ends with the process that started it; what was scored is kept, and the same start goes on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assistant_builder.child_process import compute_environment, configure_libraries, python_command
from assistant_builder.child_protocol import Child, Events, end_with_standard_input
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import Text, m, message_from
from assistant_builder.study.containment import is_plain
from evals.model_compare.run import REPORT, judgements_folder

Phase = Literal["off", "running", "failed", "done"]
_END_SECONDS = 5
"""Time that a comparison has to end before it is killed."""


@dataclass(frozen=True)
class ComparisonState:
    """The state of the last comparison that was started.

    Attributes:
        phase: Whether it runs, or how it ended.
        text: What happened last.
        error: Why it failed.
    """

    phase: Phase = "off"
    text: Text = ""
    error: ErrorRecord | None = None


def comparison_command(questions: Path, words: Sequence[str]) -> list[str]:
    """The command line of a comparison."""
    return python_command("-m", "evals.model_compare.process", str(questions), *words)


class Comparisons:
    """The comparison that this process runs, one at a time."""

    def __init__(
        self, command: Callable[[Path, Sequence[str]], Sequence[str]] = comparison_command
    ) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._child: Child | None = None
        self.state = ComparisonState()

    def start(self, questions: Path, words: Sequence[str]) -> None:
        """Start a comparison.

        Raises:
            EvaluationError: Another one is running.
        """
        with self._lock:
            if self.state.phase == "running":
                raise EvaluationError(
                    m("another comparison is running"), remedy=m("Wait for it, or stop it")
                )
            self._child = child = Child(self._command(questions, words), compute_environment())
            self.state = ComparisonState("running")
        threading.Thread(target=self._follow, args=(child,), daemon=True).start()

    def stop(self) -> None:
        """End the comparison, if one is running."""
        with self._lock:
            child, self._child = self._child, None
            self.state = ComparisonState()
        if child is not None:
            child.end(_END_SECONDS)

    def _follow(self, child: Child) -> None:
        found = ComparisonState("running")
        for event in child.events():
            if event["event"] == "part":
                part = event["part"]
                text = part if isinstance(part, str) else message_from(part)
                found = ComparisonState("running", text)
            elif event["event"] == "result":
                found = ComparisonState("done")
            else:
                found = ComparisonState("failed", error=event["error"])
            self._record(child, found)
        if found.phase == "running":
            said = child.last_words or m("its process ended")
            record = EvaluationError(said, remedy=m("Start it again: it goes on")).to_record()
            self._record(child, ComparisonState("failed", error=record))

    def _record(self, child: Child, state: ComparisonState) -> None:
        with self._lock:
            if self._child is child:
                self.state = state


def latest_report() -> Path | None:
    """``report.json`` of the comparison that was finished last; folders with links and special files have none."""
    found = [
        path
        for path in judgements_folder().glob(f"*/{REPORT}")
        if path.is_file() and is_plain(path.parent)
    ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def main() -> int:
    """Compare until the end, or until standard input closes."""
    from assistant_builder.error_translation import translate_error
    from evals.model_compare.run import judge

    end_with_standard_input()
    configure_libraries()
    events = Events()
    questions, *words = sys.argv[1:]

    def tell(text: Text) -> None:
        events.emit("part", part=text if isinstance(text, str) else text.to_record())

    try:
        judge(Path(questions), words, tell=tell)
    except Exception as error:
        translated = translate_error(error)
        print(translated, file=sys.stderr)
        events.emit("error", error=translated.to_record())
        return 1
    events.emit("result")
    return 0


if __name__ == "__main__":
    sys.exit(main())
