"""``python -m benchmarks.chat_speed STUDY``: chat in PyTorch, chat as shipped, and llama.cpp's own completion.

Held-out questions are asked one at a time, in rounds: in PyTorch, of the GGUF file through the chat's session, and of
the same file by the completion of llama.cpp's server, which gets the finished prompts. The chat looks facts up, streams
and applies the rule for declining where the study is grounded. Then eight questions are asked at once
and one at a time, of one server with eight slots. Printed are medians over rounds of the seconds for an answer, and
medians of the ratios within a round (``--json`` prints one JSON document).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.chat.ask import default_system_prompt
from assistant_builder.data import Message, load_split
from assistant_builder.export.gguf import GGUF, GgufFiles
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.llamacpp import LlamaServer, require_llamacpp
from assistant_builder.inference.session import ChatSession, Session
from assistant_builder.retrieval.answering import Look
from assistant_builder.serving.llamacpp import LlamaCppSession
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit

AT_ONCE = 8
CONTEXT = 1024
PYTORCH, SHIPPED, OWN = "chat in PyTorch", "chat as shipped", "llama.cpp's own completion"


def one_at_a_time(
    study: Study, arm: str, types: Sequence[str], rounds: int, questions: int, *, look_up: bool
) -> dict[str, Any]:
    """Seconds for an answer by way, in each round, and the tokens of the answers."""
    limit = answer_limit(study)
    sampling, system = Sampling(max_new_tokens=limit, look_up=look_up), default_system_prompt(study)
    pytorch = ChatSession(study, [arm])
    pytorch.load(arm)
    prompter = pytorch._loaded[arm][1]
    retriever = pytorch._grounded[arm].retriever if look_up and arm in pytorch._grounded else None
    sessions: dict[str, Session] = {PYTORCH: pytorch}
    servers: dict[str, LlamaServer] = {}
    for kind in types:
        sessions[f"{SHIPPED}, {kind}"] = LlamaCppSession({arm: (study, arm)}, type=kind)
        sessions[f"{SHIPPED}, {kind}"].load(arm)
        servers[f"{OWN}, {kind}"] = LlamaServer(GgufFiles(study, arm).path(kind), context=CONTEXT)
    asked = [
        [*([Message("system", system)] if system else []), pair.messages[-2]]
        for pair in load_split(study.folder / "data", "heldout")
        if pair.answerable
    ]
    asked = list(itertools.islice(itertools.cycle(asked), (rounds + 1) * questions))
    ways = [
        PYTORCH,
        *itertools.chain.from_iterable((f"{SHIPPED}, {kind}", f"{OWN}, {kind}") for kind in types),
    ]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tokens: dict[str, list[int]] = {way: [] for way in ways}
    for number in range(rounds + 1):  # the first round warms up
        batch = asked[number * questions : (number + 1) * questions]
        grounded = (
            [
                found.messages
                for found in retriever.find(
                    [Look.of(messages) for messages in batch], context=CONTEXT
                )
            ]
            if retriever
            else batch
        )
        prompts = [list(prompter.prompt_ids(messages)) for messages in grounded]
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            counted, started = 0, time.perf_counter()
            for messages, ids in zip(batch, prompts, strict=True):
                if way in servers:
                    counted += len(
                        servers[way].complete(ids, limit, stop_ids=prompter.stop_ids).ids
                    )
                else:
                    counted += list(
                        sessions[way].stream(arm, messages, sampling, threading.Event())
                    )[-1].tokens
            if number:
                seconds[way].append((time.perf_counter() - started) / questions)
                tokens[way].append(counted)
    for session in sessions.values():
        session.close()
    for server in servers.values():
        server.close()
    return {
        "seconds": seconds,
        "tokens": tokens,
        "prompts": [
            list(prompter.prompt_ids(messages))
            for messages in (
                [
                    found.messages
                    for found in retriever.find([Look.of(messages) for messages in asked])
                ]
                if retriever
                else asked
            )
        ],
    }


def at_once(
    path: Path, prompts: Sequence[Sequence[int]], limit: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds for :data:`AT_ONCE` answers, at once and one at a time, in each round, of different questions."""
    found: dict[str, list[float]] = {"at once": [], "one at a time": []}
    sets = itertools.cycle(
        prompts[place : place + AT_ONCE] for place in range(0, len(prompts) - AT_ONCE + 1, AT_ONCE)
    )
    with LlamaServer(path, context=CONTEXT, slots=AT_ONCE) as server:
        list(server.complete_all(next(sets), limit))
        for number in range(2 * rounds):
            batch, started = next(sets), time.perf_counter()
            if number % 2:
                list(server.complete_all(batch, limit))
            else:
                for ids in batch:
                    server.complete(ids, limit)
            found["at once" if number % 2 else "one at a time"].append(
                time.perf_counter() - started
            )
    return found


def summarized(found: dict[str, Any], several: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians over rounds, and medians of the ratios within a round."""
    seconds, types = found["seconds"], list(several)

    def ratio(slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))

    return {
        "seconds": {way: statistics.median(times) for way, times in seconds.items()},
        "tokens": {way: sum(counts) for way, counts in found["tokens"].items()},
        "as_shipped_over_pytorch": {kind: ratio(PYTORCH, f"{SHIPPED}, {kind}") for kind in types},
        "as_shipped_over_own": {
            kind: ratio(f"{OWN}, {kind}", f"{SHIPPED}, {kind}") for kind in types
        },
        "at_once_over_one_at_a_time": {
            kind: statistics.median(
                one / all for one, all in zip(times["one at a time"], times["at once"], strict=True)
            )
            for kind, times in several.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_speed", description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--arm", default="lora", choices=list(ARMS))
    parser.add_argument("--types", nargs="+", default=["BF16", "Q4_0"], choices=list(GGUF.types))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=8, help="questions in a round")
    parser.add_argument(
        "--no-look-up", action="store_true", help="ask without facts and without the rule"
    )
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    require_llamacpp()
    study = Study.open(words.study)
    files = GgufFiles(study, words.arm)
    paths = files.ensure(words.types)
    found = one_at_a_time(
        study, words.arm, words.types, words.rounds, words.questions, look_up=not words.no_look_up
    )
    limit = answer_limit(study)
    result = summarized(
        found,
        {kind: at_once(paths[kind], found["prompts"], limit, words.rounds) for kind in words.types},
    )
    if words.json:
        print(json.dumps(result))
        return
    for way, seconds in result["seconds"].items():
        print(
            f"{way:36} {seconds:.3f} s for an answer, {result['tokens'][way]} tokens in all rounds"
        )
    for kind in words.types:
        print(
            f"{kind}: chat as shipped {result['as_shipped_over_pytorch'][kind]:.2f} times as fast as in PyTorch, "
            f"{result['as_shipped_over_own'][kind]:.2f} times llama.cpp's own completion; {AT_ONCE} questions at "
            f"once {result['at_once_over_one_at_a_time'][kind]:.2f} times as fast as one at a time"
        )


if __name__ == "__main__":
    main()
