"""``python -m benchmarks.taught_questions STUDY``: does a served assistant know what it was taught?

The questions of the training pairs are asked word for word, and once more as people type: without capitals and final
punctuation, and with one or two typing errors. Answers are generated as when serving: with the facts that are looked up
and the rule for declining. Printed is the share of exactly right answers (``--json`` prints one JSON document).

``--asked FILE`` asks the questions of a CSV file with the columns ``question``, ``answer`` and ``answerable`` instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS, CELLS
from assistant_builder.chat.ask import default_system_prompt
from assistant_builder.data import Message, Pair, load_split
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.retrieval.decline import SENTENCE
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from evals.cells import Variant, load_cells

SEED = 0
_NEIGHBOURS = {
    "a": "sq",
    "e": "wr",
    "i": "uo",
    "o": "ip",
    "u": "yi",
    "s": "ad",
    "t": "ry",
    "n": "bm",
    "r": "et",
}
"""Neighbours of a letter on the keyboard."""


def as_typed(question: str, rng: random.Random) -> str:
    """The question in small letters, without its last punctuation, with one typing error for each six words."""
    words = question.lower().rstrip("?.! ").split()
    for _ in range(max(1, len(words) // 6)):
        long = [index for index, word in enumerate(words) if len(word) > 3]
        if long:
            place = rng.choice(long)
            words[place] = mistyped(words[place], rng)
    return " ".join(words)


def mistyped(word: str, rng: random.Random) -> str:
    """The word with two letters swapped, one left out, one doubled, or one replaced by its neighbour."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice(_NEIGHBOURS.get(word[at], word[at])) + word[at + 1 :]


def answers(study: Study, arm: str, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """What the served assistant answers to each conversation, greedily."""
    from assistant_builder.retrieval.answering import Judged, Look, own_words, settle
    from assistant_builder.retrieval.decline import FILE, FIRST_TOKENS, evidence_of, rule_of
    from assistant_builder.retrieval.retriever import Retriever
    from evals.lm_eval_model import reader

    config = study.config
    base = fetch(
        resolve(config.model.base, trust_remote_code=allows_code(config.model)),
        revision=config.model.revision,
        trust_remote_code=allows_code(config.model),
    )
    prompter = ChatTokenizer.load(base, study.template_date)
    found = (
        Retriever.load(study, prompter).find([Look.of(messages) for messages in conversations])
        if config.grounded
        else None
    )
    prompts = (
        [prompter.prompt_ids(list(each.messages)) for each in found]
        if found
        else [prompter.prompt_ids(list(messages)) for messages in conversations]
    )
    given: dict[int, list[int]] = {}
    for cell in load_cells(study, base, [Variant(CELLS[ARMS[arm].cell])]):
        scorer = reader(cell.model, prompter, config.eval.batch_size)
        scorer.run(
            [(prompt, ()) for prompt in prompts],
            max_new_tokens=answer_limit(study),
            on_scores=lambda scores: None,
            on_answers=given.update,
        )
        certainties = scorer.certainties
    texts = [prompter.decode(given[index]).strip() for index in range(len(prompts))]
    rule = rule_of(study.arm_folder(arm) / FILE) if found else None
    if rule is None or found is None:
        return texts
    taught = sorted(
        {pair.answer for pair in load_split(study.folder / "data", "train") if not pair.answerable}
    )
    shown = []
    for index, each in enumerate(found):
        evidence = evidence_of(
            each.evidence, prompter.decode(given[index][:FIRST_TOKENS]), certainties[index], taught
        )
        place = settle(
            rule,
            conversations[index][-1].content,
            Judged(rule.confidence(evidence), each.best),
            None,
        )
        answers = [hit.fact.answer for hit in each.sources]
        shown.append(
            rule.sentence
            if place is None
            else own_words(texts[index], answers) or ""
            if rule.own_words
            else texts[index]
        )
    return shown


def measure(study: Study, arm: str) -> dict[str, Any]:
    """The shares of exactly right answers to the training questions."""
    pairs: list[Pair] = [
        pair for pair in load_split(study.folder / "data", "train") if pair.answerable
    ]
    rng = random.Random(SEED)
    asked = {
        "word for word": [pair.messages[:-1] for pair in pairs],
        "as typed": [
            (*pair.messages[:-2], Message("user", as_typed(pair.messages[-2].content, rng)))
            for pair in pairs
        ],
    }
    return _scored(
        study, arm, {name: (pairs, conversations) for name, conversations in asked.items()}
    )


def measure_file(study: Study, arm: str, path: Path) -> dict[str, Any]:
    """The shares of exactly right answers, and of declined questions, for the questions of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    system = default_system_prompt(study)
    first = [Message("system", system)] if system else []
    groups: dict[str, tuple[list[Pair], list[Sequence[Message]]]] = {
        "answerable": ([], []),
        "to decline": ([], []),
    }
    for number, row in enumerate(rows):
        known = row["answerable"].lower() == "true"
        pairs, conversations = groups["answerable" if known else "to decline"]
        messages = (*first, Message("user", row["question"]))
        pairs.append(
            Pair(number, (*messages, Message("assistant", row["answer"])), answerable=known)
        )
        conversations.append(messages)
    return _scored(study, arm, {name: group for name, group in groups.items() if group[0]})


def _scored(
    study: Study, arm: str, asked: Mapping[str, tuple[Sequence[Pair], Sequence[Sequence[Message]]]]
) -> dict[str, Any]:
    from evals.metrics import Context, score_answer
    from evals.metrics.refusal import is_refusal

    texts = iter(answers(study, arm, [messages for _, each in asked.values() for messages in each]))
    taught = {
        pair.answer for pair in load_split(study.folder / "data", "train") if not pair.answerable
    } | {SENTENCE}
    result: dict[str, Any] = {
        "study": study.name,
        "arm": arm,
        "questions": {},
        "right": {},
        "declined": {},
        "wrong": {},
    }
    for name, (pairs, conversations) in asked.items():
        own = [next(texts) for _ in pairs]
        contexts = [
            Context(messages[-1].content, True, [each.to_record() for each in messages])
            for messages in conversations
        ]
        right = [
            pair.answerable and score_answer(text, pair.answer, context)["exact_match"] == 1
            for text, pair, context in zip(own, pairs, contexts, strict=True)
        ]
        result["questions"][name] = len(pairs)
        result["right"][name] = sum(right) / len(pairs)
        result["declined"][name] = sum(is_refusal(text, taught) for text in own) / len(pairs)
        result["wrong"][name] = [
            {"question": messages[-1].content, "answer": text, "reference": pair.answer}
            for good, text, pair, messages in zip(right, own, pairs, conversations, strict=True)
            if not good
        ]
    return result


def main(words: Sequence[str] | None = None) -> int:
    """Ask and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.taught_questions", description=__doc__
    )
    parser.add_argument("study", help="name of a trained study")
    parser.add_argument("--arm", choices=list(ARMS), default="qlora")
    parser.add_argument(
        "--approach", choices=["grounded", "memory"], help="default: the recommended one"
    )
    parser.add_argument("--asked", type=Path, metavar="FILE", help="ask these questions instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(words)
    study = Study.open(options.study).of_choice(options.approach)
    found = (
        measure(study, options.arm)
        if options.asked is None
        else measure_file(study, options.arm, options.asked)
    )
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    for name, share in found["right"].items():
        print(
            f"{name}: of {found['questions'][name]} questions {share:.1%} right, {found['declined'][name]:.1%} "
            "declined"
        )
        for case in found["wrong"][name][:10]:
            print(f"  {case['question']} -> {case['answer']!r}, not {case['reference']!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
