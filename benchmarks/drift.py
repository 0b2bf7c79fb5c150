"""``python -m benchmarks.drift STUDY``: whether a long training becomes slower or takes more memory over time.

Reads the log of a training and compares its first minutes with its last. The windows should be longer than an epoch,
because the speed follows the lengths of the pairs, and nothing else should compute meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.study import Study


def window(events: Sequence[dict[str, Any]], begins: float, ends: float) -> dict[str, float]:
    """Speed (non-padding tokens a second) and highest memory of the steps that ended between two training seconds.

    Raises:
        EvaluationError: Fewer than two steps ended there.
    """
    inside = [event for event in events if begins < event["elapsed_seconds"] <= ends]
    if len(inside) < 2:
        raise EvaluationError(
            f"fewer than two training steps ended between second {begins:.0f} and {ends:.0f}",
            remedy="Train for longer, or choose a longer --window",
        )
    first, last = inside[0], inside[-1]
    speed = (last["tokens"] - first["tokens"]) / (last["busy_seconds"] - first["busy_seconds"])
    return {
        "begins": begins,
        "ends": ends,
        "tokens_per_second": speed,
        "memory_bytes": max(event["memory_bytes"] for event in inside),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Compare, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of a study that trains or was trained")
    parser.add_argument("--run", default="lora", help="the training: lora, qlora, lora-2, …")
    parser.add_argument(
        "--settle", type=float, default=60.0, help="seconds left out at the beginning"
    )
    parser.add_argument("--window", type=float, default=240.0, help="seconds that are compared")
    args = parser.parse_args(words)
    try:
        path = Study(args.study).arm_folder(args.run) / "metrics.jsonl"
        events = [event for event in read_jsonl(path) if event["event"] == "step"]
        end = events[-1]["elapsed_seconds"] if events else 0.0
        if end < args.settle + 2 * args.window:
            raise EvaluationError(
                f"it trained for {end:.0f} s, and the two windows need "
                f"{args.settle + 2 * args.window:.0f}",
                remedy="Train for longer, or choose a shorter --window",
            )
        early = window(events, args.settle, args.settle + args.window)
        late = window(events, end - args.window, end)
    except AssistantBuilderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = {
        "early": early,
        "late": late,
        "speed_ratio": round(late["tokens_per_second"] / early["tokens_per_second"], 4),
        "memory_ratio": round(late["memory_bytes"] / early["memory_bytes"], 4),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
