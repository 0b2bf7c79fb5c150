"""Answers in conversation, through a running endpoint and OpenAI's client.

    assistant-builder serve demo --port 8001
    python -m benchmarks.conversation demo --url http://127.0.0.1:8001/v1

Prints how many held-out questions are answered exactly right, and how many of those to decline are declined, alone and
after 1, 2 and 4 unrelated questions; follow-ups, where ``benchmarks/datasets/follow-ups`` has a file of them; and
statements with a false number in three forms, and their true twins.

    python -m benchmarks.conversation --messages tests/chat/messages_observatory.jsonl

Asks a file of messages whose outcome was written down, each with the turns before it, and prints how many of each kind
are answered right, in part, wrongly and not at all, and how many answers have a number that no single fact has. The
sheet is the CSV file of the same name; its answers are copied, and with a study that was trained on it, its arms answer
as well.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data import Pair, load_split
from assistant_builder.retrieval.yes_no import without_yes_no
from assistant_builder.study import Study
from evals.metrics.text import exact_match, normalise

if TYPE_CHECKING:
    from assistant_builder import api

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
            right = _same(reply.text, pair.answer)
            alone = right if turns == 0 else alone
            counts["answered"][turns] += right
            counts["kept"][turns] += right and alone
    counts["asked"] = Counter({0: len(asked), 1: len(unknown)})
    return counts


def _same(text: str, fact: str) -> bool:
    return any(exact_match(each, fact) == 1 for each in (text, without_yes_no(text)))


def follow_ups(client: Client, path: Path) -> dict[str, list[tuple[str, str, bool]]]:
    """Set → last question, answer and whether it is right."""
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for row in read_jsonl(path):
        reply = client.ask(row["before"], client.ask(row["before"]).text, row["question"])
        right = any(_same(reply.text, answer) for answer in row["right"])
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
                counts[f"{kind}: fact answered"] += _same(reply.text, pair.answer)
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


OUTCOMES = ("right", "part", "wrong", "declined", "asked back")
_NO, _YES = re.compile(r"no\b", re.I), re.compile(r"yes\b", re.I)
_QUOTED = re.compile("“[^”]*”")


def facts_of_sheet(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Fact → answer, and question → fact, of a CSV file with the columns fact, question and answer."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        {row["fact"]: row["answer"] for row in rows},
        {row["question"]: row["fact"] for row in rows},
    )


def outcome(
    message: Mapping[str, Any],
    answer: api.Answer,
    facts: Mapping[str, str],
    asked: Mapping[str, str],
) -> tuple[str, bool]:
    """What an answer to a message is, one of :data:`OUTCOMES`, and whether it is fabricated.

    An answer is wrong if it has a fact that was not asked for, or begins with the false one of yes and no. It is
    fabricated if the numbers that are left without the facts that it repeats, and without quotations, are not all in
    one fact.

    Args:
        message: A line of the file: ``outcome`` is answer, any (one of the facts, or a question back that offers only
            such), greeting or decline; ``missing`` where a part has no answer, ``begins`` where yes or no is right.
        answer: What was answered.
        facts: Fact → answer.
        asked: Question of the sheet → fact.
    """
    text, rest = answer.text, answer.text
    said = set()
    for fact, words in sorted(facts.items(), key=lambda each: -len(each[1])):
        if normalise(words) in normalise(text):
            said.add(fact)
            rest = rest.replace(words, "")
    numbers = set(_NUMBER.findall(_QUOTED.sub("", rest)))
    fabricated = bool(numbers) and not any(
        numbers <= set(_NUMBER.findall(words)) for words in facts.values()
    )
    wanted = set(message["facts"])
    offered = {asked[each] for each in answer.suggestions if f"“{each}”" in text}
    if message["outcome"] == "decline":
        result = "right" if answer.declined else "asked back" if answer.asks_back else "wrong"
        return result, fabricated
    if answer.declined:
        return "declined", fabricated
    replied = answer.mode == "reply" or answer.asks_back
    if message["outcome"] == "greeting":
        return ("right" if replied and not offered and not said else "wrong"), fabricated
    if replied and not said:
        if not offered & wanted:
            return "wrong", fabricated
        return (
            "right" if message["outcome"] == "any" and offered <= wanted else "asked back"
        ), fabricated
    contrary = {"yes": _NO, "no": _YES}.get(message.get("begins") or "")
    if not said or said - wanted or (contrary and contrary.match(text)):
        return "wrong", fabricated
    whole = message["outcome"] == "any" or said == wanted
    complete = not message.get("missing") or bool(rest.strip())
    return ("right" if whole and complete else "part"), fabricated


def ask_messages(
    study: api.Study, path: Path, *, mode: str, arm: str | None = None
) -> list[tuple[dict[str, Any], api.Answer, str, bool]]:
    """Message, answer, outcome and whether it is fabricated, of each line of a file."""
    facts, asked = facts_of_sheet(path.with_suffix(".csv"))
    found = []
    for message in read_jsonl(path):
        history: list[dict[str, str]] = []
        for question in [*message.get("before", ()), message["message"]]:
            options: Any = {"history": history, "mode": mode, "arm": arm}
            answer = study.ask(question, **options)
            history = [
                *history,
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.text},
            ]
        found.append((message, answer, *outcome(message, answer, facts, asked)))
    return found


def print_messages(found: Sequence[tuple[dict[str, Any], api.Answer, str, bool]]) -> None:
    """Print the counts of each kind and of all, and what was not right."""
    kinds = list(dict.fromkeys(message["kind"] for message, *_ in found))
    answerable = [each for each in found if each[0]["outcome"] in ("answer", "any")]
    groups = [(kind, [each for each in found if each[0]["kind"] == kind]) for kind in kinds]
    for name, group in [*groups, ("answerable", answerable), ("all", found)]:
        counts = Counter(each[2] for each in group)
        print(
            f"{name}: {len(group)}, "
            + ", ".join(f"{counts[each]} {each}" for each in OUTCOMES)
            + f", {sum(each[3] for each in group)} fabricated"
        )
    begun = [each for each in found if each[0].get("begins")]
    plainly = sum(
        each[1].text.lower().startswith(each[0]["begins"]) and each[2] == "right" for each in begun
    )
    print(f"yes or no said where it is known: {plainly} of {len(begun)}")
    for message, answer, result, fabricated in found:
        if result != "right" or fabricated:
            print(f"  {message['id']} {result}: {message['message']} → {answer.text!r}")


def measure_messages(path: Path, name: str | None) -> None:
    """Ask the messages of a file: copied answers, and the arms of a study that was trained on the sheet."""
    from assistant_builder import api
    from assistant_builder.arms import label
    from assistant_builder.config import StudyConfig

    facts, asked = facts_of_sheet(path.with_suffix(".csv"))
    home = os.environ.get("ASSISTANT_BUILDER_HOME")
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.csv"
        with sheet.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(
                [("question", "answer"), *((each, facts[fact]) for each, fact in asked.items())]
            )
        os.environ["ASSISTANT_BUILDER_HOME"] = folder
        try:
            Study.create(StudyConfig().named("sheet"), sheet)
            with api.open("sheet") as study:
                print("copy")
                print_messages(ask_messages(study, path, mode="copy"))
        finally:
            os.environ.pop("ASSISTANT_BUILDER_HOME")
            if home is not None:
                os.environ["ASSISTANT_BUILDER_HOME"] = home
    if name is not None:
        with api.open(name) as study:
            for arm in study.config.arms:
                print(label(arm))
                print_messages(ask_messages(study, path, mode="tuned", arm=arm))


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description="Measure an endpoint in conversation.")
    parser.add_argument(
        "study", nargs="?", help="name of the study that is served, or was trained on the sheet"
    )
    parser.add_argument("--messages", type=Path, help="file of messages with their outcome")
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
    if options.messages is not None:
        return measure_messages(options.messages, options.study)
    if options.study is None:
        parser.error("name a study, or a file with --messages")
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
