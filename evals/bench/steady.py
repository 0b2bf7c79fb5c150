"""``python -m evals.bench.steady STUDY``: whether a long training gets slower or bigger as it goes.

Reads what a training of a study wrote as it ran, and compares its first minutes with its last. Let the windows be
longer than an epoch, because the speed follows the lengths of the pairs, and let nothing else compute while they last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.study import Study


@dataclass(frozen=True)
class Window:
    """Some minutes of a training.

    Attributes:
        begins: Seconds of training before them.
        ends: Seconds of training at their end.
        tokens_per_second: Non-padding tokens a second in training steps.
        memory_bytes: Highest resident memory (on a GPU, allocated).
    """

    begins: float
    ends: float
    tokens_per_second: float
    memory_bytes: int


def window_of(events: Sequence[dict[str, Any]], begins: float, ends: float) -> Window:
    """What the steps did that ended in a span.

    Args:
        events: The training steps of ``metrics.jsonl``, in order.
        begins: Seconds since training began.
        ends: Seconds since training began.

    Raises:
        EvaluationError: Fewer than two steps ended there.
    """
    inside = [event for event in events if begins < event["elapsed_seconds"] <= ends]
    if len(inside) < 2:
        raise EvaluationError(f"fewer than two training steps ended between second {begins:.0f} and {ends:.0f}",
                              remedy="Train for longer, or choose a longer --window")
    first, last = inside[0], inside[-1]
    speed = (last["tokens"] - first["tokens"]) / (last["busy_seconds"] - first["busy_seconds"])
    return Window(begins, ends, speed, max(event["memory_bytes"] for event in inside))


def compare(events: Sequence[dict[str, Any]], settle: float, seconds: float) -> tuple[Window, Window]:
    """The first minutes of a training, after those in which it settles, and its last.

    Args:
        events: The training steps of ``metrics.jsonl``, in order.
        settle: Seconds left out at the beginning.
        seconds: Length of both windows.

    Raises:
        EvaluationError: The windows would overlap, or hold too few steps.
    """
    end = events[-1]["elapsed_seconds"] if events else 0.0
    if end < settle + 2 * seconds:
        raise EvaluationError(f"it trained for {end:.0f} s, and the two windows need {settle + 2 * seconds:.0f}",
                              remedy="Train for longer, or choose a shorter --window")
    return window_of(events, settle, settle + seconds), window_of(events, end - seconds, end)


def main(words: Sequence[str] | None = None) -> int:
    """Compare, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.steady", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of a study that trains or was trained")
    parser.add_argument("--run", default="lora", help="the training: lora, qlora, lora-2, …")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds left out at the beginning")
    parser.add_argument("--window", type=float, default=240.0, help="seconds that are compared")
    given = parser.parse_args(words)
    try:
        path = Study(given.study).arm_folder(given.run) / "metrics.jsonl"
        events = [event for event in read_jsonl(path) if event["event"] == "step"]
        early, late = compare(events, given.settle, given.window)
    except AssistantBuilderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = {
        "early": asdict(early), "late": asdict(late),
        "speed_ratio": round(late.tokens_per_second / early.tokens_per_second, 4),
        "memory_ratio": round(late.memory_bytes / early.memory_bytes, 4),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
