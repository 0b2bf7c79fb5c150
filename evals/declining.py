"""Recognise answers that decline to answer.

A list of English phrases, no model: it can be read, and it gives the same result everywhere. An answer that says it
does not know and then answers all the same counts as declined; a decline in another language is not recognised.

``declines.jsonl`` holds hand-labelled answers, and ``python -m evals.declining`` prints how far the list agrees with
them. Its sets tell different things. The list was written with ``first`` at hand, so agreement there shows only that it
does what was meant. ``fresh`` and ``indirect`` were added when the list was finished, and it has not been changed for
them: ``fresh`` declines in the stock replies that question-answering assistants are told to give, and ``indirect``
declines in whatever words (``My notes stop short of that.``). Who wrote these two knew the list.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = (
    r"(?:handbook|manual|guide(?:book|lines)?|document(?:s|ation)?|text|context|passage|article|page|website|leaflet|"
    r"brochure|faq|catalogue|catalog|sources?|materials?|notes|records?|knowledge base|information|data|policy|"
    r"policies|rules|regulations|instructions|section)"
)
_THE_SOURCE = rf"(?:the|this|that|these|those|my|our|your)(?: \w+){{0,4}}? {_SOURCE}(?: \w+){{0,3}}?"
_NOT = r"(?:does not|do not|did not|has not|have not|doesn't|don't|didn't|hasn't|haven't)"
_CANNOT = r"(?:cannot|can not|can't|could not|couldn't|am unable to|am not able to|'m unable to|'m not able to)"
_TOLD = (
    r"(?:said|mentioned|stated|specified|documented|described|addressed|discussed|recorded|listed|covered|given|found)"
)

DECLINES: dict[str, str] = {
    "I do not know": r"\bi (?:really |simply |honestly |still )?(?:do not|don't|didn't|would not|wouldn't) "
    r"(?:actually )?know\b",
    "we do not know": r"\bwe (?:do not|don't) know(?: (?:that|this|the answer))?(?=[.!;,]|$)",
    "I have no information": r"\b(?:i|we) (?:(?:do not|don't) (?:currently |actually )?have|have no|lack)(?: \w+){0,3}"
    r"? (?:information|answer|knowledge|idea|details|data|record)\b",
    "I am not sure": r"\bi(?: am|'m) (?:really |quite )?(?:not (?:sure|certain|aware|familiar)|unsure|uncertain)\b",
    "I cannot say": rf"\bi ?{_CANNOT} (?:\w+ )?(?:answer|say|tell|help|assist|give|provide|find|confirm|determine|"
    r"comment|respond|advise|share)\b",
    "we cannot say": rf"\bwe ?{_CANNOT} (?:\w+ )?(?:say|answer (?:that|this|your)|tell you|"
    r"help (?:you )?with (?:that|this))\b",
    "bare refusal": r"^(?:(?:i'm |i am )?(?:very |so )?(?:sorry|apologies)[,.;:]? (?:but )?)?"
    r"(?:cannot|can't|can not|unable to|not able to) (?:answer|say|tell|help|find)\b",
    "cannot be answered": r"\b(?:cannot|can't|can not|could not) be (?:answered|inferred|"
    rf"(?:determined|told|found) (?:from|in) {_THE_SOURCE}(?!\w))(?!\w)",
    "I was not told": r"\bi (?:was not|wasn't|have not been|haven't been) (?:told|given|taught|trained)\b",
    "the source does not say": rf"\b{_THE_SOURCE} {_NOT} (?:\w+ly )?"
    r"(?:say|said|state|mention|specify|address|indicate|answer|discuss|tell)\b(?! that \w)",
    "the source does not contain it": rf"\b{_THE_SOURCE} {_NOT} (?:\w+ly )?(?:cover|contain|include|provide|give|list|"
    r"have|explain|describe) (?:that|this|it|an answer|the answer|any|enough|details|information|your question|"
    r"the (?:information|question))\b",
    "the source is silent": rf"\b{_THE_SOURCE} (?:is|are) silent\b|\b{_THE_SOURCE} (?:has|have|gives?|contains?) no "
    r"(?:answer|information|mention|details)\b",
    "not in the source": rf"\b(?:is not|are not|isn't|aren't|was not|not|never|nowhere) {_TOLD} "
    rf"(?:\w+ )?(?:in|by) {_THE_SOURCE}(?!\w)|\b(?:that|this|it|the answer)(?: is|'s) not in {_THE_SOURCE}(?!\w)",
    "not said": rf"\b(?:that|this|it|the answer)(?: is|'s) not (?:{_TOLD}|something i (?:know|can(?: \w+){{1,3}}))"
    r"(?=[.!,;]|$)",
    "nothing about it": rf"\b(?:no (?:information|mention|answer|details)|nothing) (?:\w+ )?(?:is |was |are )?"
    r"(?:(?:available|given|provided|said|stated)(?=[.!,;]|$| about| on| in)|"
    rf"(?:about|on|regarding|of|for)\b[^.]* in {_THE_SOURCE}|"
    rf"in {_THE_SOURCE})",
    "not enough information": r"\b(?:not enough|insufficient|no) (?:information|context|details) to "
    r"(?:answer|say|tell|know)\b",
    "out of scope": rf"\b(?:beyond|outside|out of)(?: of)? (?:my (?:\w+ )?(?:scope|knowledge|expertise|area|training)|"
    rf"the scope of {_THE_SOURCE}|what (?:i|we) (?:know|can))",
    "nothing else said": r"^(?:sorry[,.]? )?(?:unknown|n/a|none given|no idea|no answer|unanswerable|"
    rf"(?:(?:answer|it is|that is|this is) )?not (?:known|available|{_TOLD}))[.!]?$",
}
"""What counts as declining: a name for each kind, and the regular expression that finds it in folded text."""

_DECLINE = re.compile("|".join(f"(?:{pattern})" for pattern in DECLINES.values()))


def declined(answer: str) -> bool:
    """Whether an answer declines to answer, by the phrases of ``DECLINES``.

    What stands in quotation marks inside an answer is not the assistant speaking and is left out.
    """
    folded = unicodedata.normalize("NFKC", answer).casefold()
    folded = re.sub("[‘’ʼ]", "'", re.sub("[“”„«»]", '"', folded))
    folded = " ".join(folded.split()).strip('" ')
    folded = re.sub(r'"[^"]*"', " ", folded)
    return _DECLINE.search(folded.strip()) is not None


@dataclass(frozen=True)
class Agreement:
    """How far the recogniser agrees with labels given by hand.

    Attributes:
        declines: Answers labelled as declining.
        recognised: Those of them that the recogniser finds.
        others: Answers labelled as not declining.
        false_alarms: Those of them that it takes for declining.
        interval: 95 % Wilson interval of the share on which it agrees.
        kappa: Cohen's kappa: agreement beyond chance, 1 at most; ``None`` where all labels are the same.
    """

    declines: int
    recognised: int
    others: int
    false_alarms: int
    interval: tuple[float, float]
    kappa: float | None

    @property
    def share(self) -> float:
        """Share of the answers on which both agree."""
        return (self.recognised + self.others - self.false_alarms) / (self.declines + self.others)


def labelled_answers() -> list[dict[str, Any]]:
    """The hand-labelled answers: ``answer``, ``declined`` and ``set``."""
    lines = Path(__file__).with_name("declines.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def agreement(rows: Iterable[Mapping[str, Any]]) -> Agreement:
    """Compare the recogniser with the labels of some answers.

    Args:
        rows: At least one of ``labelled_answers``.
    """
    from scipy.stats import binomtest

    pairs = [(declined(row["answer"]), row["declined"]) for row in rows]
    n, declines, found = len(pairs), sum(label for _, label in pairs), sum(said for said, _ in pairs)
    recognised = sum(said and label for said, label in pairs)
    agreed = sum(said == label for said, label in pairs)
    chance = (declines * found + (n - declines) * (n - found)) / n**2
    interval = binomtest(agreed, n).proportion_ci(0.95, method="wilson")
    return Agreement(
        declines=declines, recognised=recognised, others=n - declines, false_alarms=found - recognised,
        interval=(float(interval.low), float(interval.high)),
        kappa=(agreed / n - chance) / (1 - chance) if 0 < declines < n else None,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Agreement on each set of the labelled answers, as a Markdown table."""
    lines = [
        "| answers | declines recognised | false alarms | agreement (95 % interval) | Cohen's kappa |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        found = agreement(row for row in rows if row["set"] == name)
        low, high = found.interval
        lines.append(
            f"| {name} | {found.recognised} of {found.declines} | {found.false_alarms} of {found.others} "
            f"| {found.share:.1%} ({low:.1%} to {high:.1%}) | {'–' if found.kappa is None else f'{found.kappa:.2f}'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table, and with ``--wrong`` the answers on which recogniser and label differ."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.declining",
        description="How far the recogniser of declines agrees with labels given by hand.",
    )
    parser.add_argument("--wrong", action="store_true", help="list the answers on which they differ")
    options = parser.parse_args(argv)
    rows = labelled_answers()
    print(table(rows))
    for row in rows if options.wrong else ():
        if declined(row["answer"]) is not row["declined"]:
            print(f"{row['set']}, {'not recognised' if row['declined'] else 'false alarm'}: {row['answer']}")


if __name__ == "__main__":
    main()
