"""``python -m benchmarks.grounded_latency STUDY``: how much later a grounded assistant answers.

Held-out questions are asked one at a time, each in turn without looking up, with facts in the prompt, and with facts
and the rule for declining, which holds the first tokens back. Each of these ways has a cache of its own: a prompt
shares with the one before it what it would share in a chat. Printed are medians of the seconds until the first text
and until the complete answer (``--json`` prints one JSON document).
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
from dataclasses import replace
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.data import load_split
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.generate import KVCacheState
from assistant_builder.inference.session import ChatSession
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit

WAYS = ("without looking up", "with facts", "with facts and rule")


def measure(study: Study, arm: str, questions: int) -> dict[str, Any]:
    """Median seconds until the first text and the complete answer for each of :data:`WAYS`, and of the search."""
    session = ChatSession(study, [arm])
    session.load(arm)
    served = session._grounded[arm]
    free = replace(served, rule=None)
    asked = [pair.messages[:-1] for pair in load_split(study.folder / "data", "heldout")]
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    caches: dict[str, dict[str, KVCacheState]] = {way: {} for way in WAYS}
    for number, messages in enumerate(
        [asked[0], *asked[:: max(1, len(asked) // questions)][:questions]]
    ):
        for way in WAYS:
            session._grounded[arm], session._conversations = (
                served if way == WAYS[2] else free,
                caches[way],
            )
            sampling = Sampling(max_new_tokens=answer_limit(study), look_up=way != WAYS[0])
            last = list(session.stream(arm, messages, sampling, threading.Event()))[-1]
            if number and last.first_token_seconds is not None:  # the first question warms up
                found[way].append((last.first_token_seconds, last.seconds))
    return {
        way: {
            "first_text_seconds": statistics.median(first for first, _ in times),
            "seconds": statistics.median(whole for _, whole in times),
        }
        for way, times in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grounded_latency", description=__doc__
    )
    parser.add_argument("study")
    parser.add_argument("--arm", default="lora", choices=list(ARMS))
    parser.add_argument("--questions", type=int, default=24, help="questions that are asked")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    found = measure(Study.open(words.study), words.arm, words.questions)
    if words.json:
        print(json.dumps(found))
        return
    for way, row in found.items():
        print(
            f"{way:20} first text {row['first_text_seconds']:.3f} s, complete {row['seconds']:.3f} s"
        )


if __name__ == "__main__":
    main()
