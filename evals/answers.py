"""What an assistant answers to a held-out item: the same decisions as in serving, on answers that were generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.retrieval.answering import Judged, own_words, settle
from assistant_builder.retrieval.decline import DeclineRule, Retrieved, evidence_of
from assistant_builder.retrieval.index import Fact
from assistant_builder.retrieval.values import in_one_fact
from evals.metrics.text import exact_match

Item = Mapping[str, Any]
AFTER_TURNS = (1, 4)  # numbers of unrelated turns after which questions are asked again
AFTER = "after"  # key of an item: number of earlier turns → its looks after unrelated turns


@dataclass(frozen=True)
class Generated:
    """The answer of a model to a prompt.

    Attributes:
        text: The answer.
        beginning: Its first tokens as text.
        certainties: Log-probabilities of its tokens.
    """

    text: str
    beginning: str
    certainties: Sequence[float]


@dataclass(frozen=True)
class Given:
    """What is answered.

    Attributes:
        text: What a user reads.
        generated: What the model generated for the look that is answered, or for the last one if it is declined.
        prompt: The prompt of that look.
        confidence: The rule's confidence in that look; 0 without a rule.
        sources: Records of the facts in its prompt.
    """

    text: str
    generated: str
    prompt: str
    confidence: float
    sources: Sequence[Mapping[str, Any]]

    def to_record(self) -> dict[str, Any]:
        """What a sample records of a decision by a rule."""
        return {
            "generated": self.generated,
            "confidence": self.confidence,
            "sources": list(self.sources),
        }


def looks_of(item: Item, turns: int = 0) -> list[Item]:
    """The looks of an item, one or two, as it is or after so many unrelated turns; none if it is not asked so."""
    if turns:
        return list(item.get(AFTER, {}).get(str(turns), ()))
    return [item, *([item["second"]] if "second" in item else [])]


def further_prompts(items: Iterable[Item], turns: Iterable[int] = ()) -> list[str]:
    """The prompts of the second look of each item that has one, and of its looks after these numbers of turns."""
    return [
        look["prompt"]
        for item in items
        for looks in (looks_of(item)[1:], *(looks_of(item, number) for number in turns))
        for look in looks
    ]


def given_answer(
    looks: Sequence[Item],
    question: str,
    rule: DeclineRule | None,
    generated: Mapping[str, Generated],
    taught: Sequence[str],
) -> Given:
    """Decide between the looks of a question, its own words, and declining.

    Args:
        looks: The first look and, if there is one, the second.
        question: The question.
        rule: The rule of the assistant; ``None``: the answer to the first look is given.
        generated: The model's answer to each prompt.
        taught: Answers of the data that decline.
    """
    if rule is None:
        answer = generated[looks[0]["prompt"]]
        return Given(answer.text, answer.text, looks[0]["prompt"], 0.0, looks[0].get("sources", ()))
    judged = [_judged(look, rule, generated[look["prompt"]], taught) for look in looks]
    again, earlier = (lambda: judged[-1]) if len(looks) > 1 else None, looks[-1].get("earlier", "")
    place = settle(rule, question, judged[0], again, earlier)
    shown = len(looks) - 1 if place is None else place
    look, answer = looks[shown], generated[looks[shown]["prompt"]]
    text = rule.sentence if place is None else answer.text
    if place is not None and rule.own_words:
        text = str(own_words(text, [source["answer"] for source in look["sources"]]))
    elif place is not None and rule.values != "anywhere":
        facts = [(source["question"], source["answer"]) for source in look["sources"]]
        text = in_one_fact(text, facts, each=rule.values == "sentence").text
    return Given(text, answer.text, look["prompt"], judged[shown].confidence, look["sources"])


def _judged(look: Item, rule: DeclineRule, answer: Generated, taught: Sequence[str]) -> Judged:
    evidence = evidence_of(
        Retrieved(**look["evidence"]), answer.beginning, answer.certainties, taught
    )
    best = look["sources"][0] if look["sources"] else None
    return Judged(
        rule.confidence(evidence),
        best
        and Fact(best["row"], 0, best["question"], best["answer"], "", None, None, answerable=True),
    )


def after_turns(
    items: Sequence[Item],
    samples: Sequence[Item],
    rule: DeclineRule,
    generated: Mapping[str, Generated],
    taught: Sequence[str],
) -> dict[str, Any]:
    """How an assistant answers after unrelated turns.

    Args:
        items: Items as of :func:`evals.tasks.held_out.build_items`.
        samples: Their records, with the answers to the questions alone.
        rule: The rule of the assistant.
        generated: The model's answer to each prompt.
        taught: Answers of the data that decline.

    Returns:
        ``items`` and ``to_decline``, the questions with and without an answer that are asked alone; ``right`` and
        ``declined``, how many of each are answered exactly and are declined, by the number of unrelated turns; and
        ``follow_ups``, how many later questions of conversations are answered exactly, and their number.
    """
    single = [
        (item, sample) for item, sample in zip(items, samples, strict=True) if item["turn"] == 0
    ]
    later = [
        sample
        for item, sample in zip(items, samples, strict=True)
        if item["turn"] and item["answerable"]
    ]
    right, declined = Counter[str](), Counter[str]()
    for turns in (0, *AFTER_TURNS):
        for item, sample in single:
            text, refused = sample["answer"], sample["declined"]
            if turns and (looks := looks_of(item, turns)):
                text = given_answer(looks, item["question"], rule, generated, taught).text
                refused = text == rule.sentence
            if item["answerable"]:
                right[str(turns)] += exact_match(text, item["reference"]) == 1
            else:
                declined[str(turns)] += refused
    counted = [str(turns) for turns in (0, *AFTER_TURNS)]
    answerable = sum(item["answerable"] for item, _ in single)
    return {
        "items": answerable,
        "to_decline": len(single) - answerable,
        "right": {key: right[key] for key in counted},
        "declined": {key: declined[key] for key in counted},
        "follow_ups": {
            "right": sum(sample["metrics"]["exact_match"] == 1 for sample in later),
            "items": len(later),
        },
    }
