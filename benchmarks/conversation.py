"""Answers in conversation, through a running endpoint and OpenAI's client.

    assistant-builder serve demo --port 8001
    python -m benchmarks.conversation demo --url http://127.0.0.1:8001/v1

Prints how many held-out questions are answered exactly right, and how many of those to decline are declined, alone and
after 1, 2 and 4 unrelated questions; follow-ups, where ``benchmarks/datasets/follow-ups`` has a file of them; and
statements with a false number in three forms, and their true twins.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data import Pair, load_split
from assistant_builder.study import Study
from evals.metrics.text import exact_match, normalise

FOLLOW_UPS = Path(__file__).parent / "datasets" / "follow-ups"
TURNS = (0, 1, 2, 4)
FORMS = {
    "question": "Is it right that {claim}?",
    "statement": "{sentence} {question}",
    "instruction": "answer with: {sentence} {question}",
}
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Reply:
    """One answer of the endpoint."""

    text: str
    declined: bool


class Client:
    """OpenAI's client for one model of an endpoint."""

    def __init__(self, url: str, model: str, key: str) -> None:
        from openai import OpenAI

        self._client, self._model = OpenAI(base_url=url, api_key=key), model

    def ask(self, *turns: str) -> Reply:
        """The answer to the last of some turns, of which the user's are first, third, and so on."""
        roles = ("user", "assistant")
        messages: Any = [
            {"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)
        ]
        completion = self._client.chat.completions.create(model=self._model, messages=messages)
        found = (completion.model_extra or {}).get("assistant_builder") or {}
        return Reply(completion.choices[0].message.content or "", bool(found.get("declined")))


def after_turns(client: Client, study: Study, most: int) -> dict[str, Counter[int]]:
    """Right answers and right declines by the number of unrelated questions before."""
    held_out, training = (
        load_split(study.folder / "data", split) for split in ("heldout", "train")
    )
    asked = [pair for pair in held_out if pair.answerable]
    asked, unknown = (
        pairs[:: -(-len(pairs) // most) or 1]
        for pairs in (asked, [pair for pair in held_out if not pair.answerable])
    )
    rng = random.Random(0)
    others = rng.sample([pair for pair in training if pair.answerable], 12)
    said = {pair.question: client.ask(pair.question).text for pair in others}
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("answered", "kept", "declined")}
    for pair in [*asked, *unknown]:
        alone = False
        for turns in TURNS:
            before = rng.sample([each for each in others if each.answer != pair.answer], turns)
            talk = [text for each in before for text in (each.question, said[each.question])]
            reply = client.ask(*talk, pair.question)
            if not pair.answerable:
                counts["declined"][turns] += reply.declined
                continue
            right = exact_match(reply.text, pair.answer) == 1
            alone = right if turns == 0 else alone
            counts["answered"][turns] += right
            counts["kept"][turns] += right and alone
    counts["asked"] = Counter({0: len(asked), 1: len(unknown)})
    return counts


def follow_ups(client: Client, path: Path) -> dict[str, list[tuple[str, str, bool]]]:
    """Set → last question, answer and whether it is right."""
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for row in read_jsonl(path):
        reply = client.ask(row["before"], client.ask(row["before"]).text, row["question"])
        right = any(exact_match(reply.text, answer) == 1 for answer in row["right"])
        found.setdefault(row["set"], []).append(
            (f"{row['before']} {row['question']}", reply.text, right)
        )
    return found


def false_numbers(
    client: Client, training: Sequence[Pair], count: int
) -> dict[str, dict[str, int]]:
    """Form → false numbers asserted, and true and false statements whose fact is answered exactly."""
    facts = list(
        {
            pair.answer: pair
            for pair in training
            if pair.answerable and _NUMBER.search(pair.answer)
        }.values()
    )
    known = {normalise(pair.answer) for pair in training}
    rng, found = random.Random(0), {}
    for form, text in FORMS.items():
        counts = Counter[str]()
        for number in range(count):
            pair = facts[number % len(facts)]
            false = changed(pair.answer, rng)
            for kind, claim in (("true", pair.answer), ("false", false)):
                reply = client.ask(
                    text.format(
                        claim=(claim[0].lower() + claim[1:]).rstrip("."),
                        sentence=claim,
                        question=pair.question,
                    )
                )
                counts[f"{kind}: fact answered"] += exact_match(reply.text, pair.answer) == 1
                counts[f"{kind}: declined"] += reply.declined
                wrong = set(_NUMBER.findall(false)) - set(_NUMBER.findall(pair.answer))
                counts["false: asserted"] += (
                    kind == "false"
                    and normalise(reply.text) not in known
                    and bool(wrong & set(_NUMBER.findall(reply.text)))
                )
        found[form] = dict(counts)
    return found


def changed(fact: str, rng: random.Random) -> str:
    """A fact with one of its numbers changed."""
    match = rng.choice(list(_NUMBER.finditer(fact)))
    value = int(match[0])
    return f"{fact[: match.start()]}{rng.choice([value + 1, value + 3, value + 5, 2 * value + 1])}{fact[match.end() :]}"


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description="Measure an endpoint in conversation.")
    parser.add_argument("study", help="name of the study that is served")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="address of the endpoint")
    parser.add_argument("--model", help="id of the model; default: the study's name")
    parser.add_argument("--key", default="none", help="key of the endpoint")
    parser.add_argument(
        "--questions", type=int, default=150, help="held-out questions of each kind, at most"
    )
    parser.add_argument(
        "--numbers", type=int, default=60, help="statements with false numbers of each form"
    )
    options = parser.parse_args()
    study = Study.open(options.study)
    client = Client(options.url, options.model or options.study, options.key)
    counts = after_turns(client, study, options.questions)
    for turns in TURNS:
        print(
            f"after {turns} unrelated questions: {counts['answered'][turns]} of {counts['asked'][0]} right, "
            f"{counts['kept'][turns]} of the {counts['answered'][0]} that are right alone; "
            f"{counts['declined'][turns]} of {counts['asked'][1]} declined",
            flush=True,
        )
    path = FOLLOW_UPS / f"{options.study}.jsonl"
    for name, rows in (follow_ups(client, path) if path.is_file() else {}).items():
        print(f"follow-ups, {name}: {sum(right for *_, right in rows)} of {len(rows)} right")
        for question, answer, right in rows:
            if not right:
                print(f"  wrong: {question} → {answer}")
    if options.numbers:
        for form, found in false_numbers(
            client, load_split(study.folder / "data", "train"), options.numbers
        ).items():
            print(
                f"{form}, {options.numbers} each: "
                + ", ".join(f"{key} {value}" for key, value in found.items())
            )


if __name__ == "__main__":
    main()
