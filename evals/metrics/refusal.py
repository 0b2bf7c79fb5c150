"""Recognition of refusals: answers in which the assistant declines to answer.

A list of English phrases, and the words in which the data itself teaches to decline; no model, so that the rule can be
read and gives the same result on every machine. An answer that states ignorance and then answers all the same counts as
a refusal; a refusal in another language is recognised only where the data teaches it.

``refusal_labels.jsonl`` holds hand-labelled answers; ``python -m evals.metrics.refusal`` prints how far the rule agrees
with them. The phrases were written and extended with every set but ``blind`` in view, so agreement on those sets only
shows that the rule does what was meant. ``blind`` was written by someone who had never seen the list and was asked for
refusals in as many wordings as real assistants use, and the list has not been changed for it: it finds less than half
of those refusals, and takes hardly any other answer for one. Counts of refusals are therefore lower bounds.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.metrics.text import token_f1

_SOURCE = (
    r"(?:handbook|manual|guide(?:book|lines)?|document(?:s|ation)?|texts?|context|passages?|articles?|pages?|website|"
    r"leaflet|brochure|faqs?|catalogue|catalog|sources?|materials?|notes|records?|knowledge base|information|"
    r"data|policy|"
    r"policies|rules|regulations|instructions|section|extract|excerpt|snippet|paragraph|contents?|files?|index|logbook)"
)
_THE_SOURCE = rf"(?:the|this|that|these|those|my|our|your)(?: \w+){{0,4}}? {_SOURCE}(?: \w+){{0,3}}?"
_NOT = r"(?:does not|do not|did not|has not|have not|doesn't|don't|didn't|hasn't|haven't)"
_CANNOT = r"(?:cannot|can not|can't|could not|couldn't|am unable to|am not able to|'m unable to|'m not able to)"
_KNOWLEDGE = r"(?:information|info|answer|details?|data|specifics|figures?|facts?)"
_TOLD = (
    r"(?:said|mentioned|stated|specified|documented|described|addressed|discussed|recorded|listed|covered|given|found|"
    r"provided|supplied|included)"
)
_TELL = (
    r"(?:answer|say|tell|help|assist|give|provide|find|confirm|determine|comment|respond|advise|share|discuss|"
    r"speak|judge|"
    r"verify|locate|address|access|offer|predict|see|view|look up|disclose)"
)

REFUSAL_PATTERNS: dict[str, str] = {
    "I do not know": r"\bi (?:really |simply |honestly |still )?(?:do not|don't|didn't|would not|wouldn't) "
    r"(?:actually )?know\b",
    "we do not know": r"\bwe (?:do not|don't) know(?: (?:that|this|the answer))?(?=[.!;,]|$)",
    "I have no information": r"\b(?:i|we) (?:(?:do not|don't) (?:currently |actually )?have|have no|lack)(?: \w+){0,3}"
    rf"? (?:{_KNOWLEDGE}|knowledge|idea|clue|record|way of (?:knowing|telling|viewing|seeing))\b",
    "I do not have it": r"\bi (?:do not|don't) have (?:access|the|any|that|those|this|your|enough)\b",
    "I would be guessing": r"\b(?:i|we)(?:'d| would) (?:only |just )?be (?:guessing|making)\b|"
    r"\b(?:i|we)(?:'d| would) rather not (?:answer|say|guess)\b",
    "I am not sure": r"\bi(?: am|'m) (?:really |quite )?(?:not (?:sure|certain|aware|familiar)|unsure|uncertain)\b|"
    r"^(?:hmm+,? |sorry,? |well,? )?(?:not sure|no idea|no clue|beats me|search me)\b",
    "I am not equipped": r"\b(?:i am|i'm|we are|we're) (?:just |simply |really )?not (?:equipped|qualified|"
    r"trained|set up|"
    r"allowed|in a position|programmed|authori[sz]ed|permitted) to\b",
    "I cannot say": rf"\bi ?{_CANNOT} (?:\w+ )?{_TELL}\b",
    "we cannot say": rf"\bwe ?{_CANNOT} (?:\w+ )?(?:say|answer (?:that|this|your)|tell you|"
    r"help (?:you )?with (?:that|this))\b",
    "the assistant cannot say": rf"\b(?:this|the) (?:assistant|bot|chatbot|service|system) (?:cannot|can not|"
    rf"can't|is unable "
    rf"to|is not able to) (?:\w+ )?{_TELL}\b",
    "I can only help elsewhere": r"\bi(?: can|'m able to| am able to) only (?:answer|help|talk|speak|assist|"
    r"cover|discuss)\b",
    "I must decline": r"\b(?:i|we)(?:'ll| will)? (?:must|have to|need to) (?:decline|pass|refrain)\b|"
    r"\b(?:not|isn't|aren't) (?:something|anything) (?:that )?(?:i|we) (?:know|can|am able|could)\b",
    "I have not found it": r"\b(?:i|we)(?: have|'ve| was| were)? (?:not been able|been unable|unable|not able) to "
    r"(?:find|locate|determine|confirm|verify)\b|\bno (?:\w+ )?(?:results?|matches|entry|entries|answers?) "
    r"(?:was|were|are|is|could be)? ?(?:found|returned|available)\b",
    "bare refusal": r"^(?:(?:i'm |i am )?(?:very |so )?(?:sorry|apologies)[,.;:]? (?:but )?)?"
    r"(?:cannot|can't|can not|unable to|not able to) (?:answer|say|tell|help|find)\b",
    "cannot be answered": r"\b(?:cannot|can't|can not|could not) be (?:answered|inferred|deduced|"
    rf"(?:determined|told|found|established) (?:from|in) {_THE_SOURCE}(?!\w))(?!\w)|"
    rf"\b(?:this|that|the|it)(?: {_KNOWLEDGE}\b[^.!?]{{0,40}}?)? (?:cannot|can't|could not) be (?:determined|disclosed|"
    r"shared|established)\b",
    "impossible to tell": r"\b(?:impossible|not possible) to (?:tell|say|know|determine|answer)\b",
    "not clear from the source": rf"\b(?:is not|isn't|not) (?:clear|known|obvious) from {_THE_SOURCE}(?!\w)|"
    rf"\bunclear from {_THE_SOURCE}(?!\w)",
    "not available here": rf"\b(?:this|that|the|your|such) (?:\w+ )?{_KNOWLEDGE} (?:is|are|was|were|has|have)"
    rf"(?: not|n't) (?:been )?(?:\w+ )?(?:available|present|{_TOLD})\b",
    "I was not told": r"\bi (?:was not|wasn't|have not been|haven't been) (?:told|given|taught|trained)\b",
    "the source does not say": rf"(?<!although )(?<!though )\b{_THE_SOURCE} {_NOT} (?:\w+ly )?"
    r"(?:say|said|state|mention|specify|address|indicate|answer|discuss|tell)\b(?! that \w)",
    "the source does not contain it": rf"(?<!although )(?<!though )\b{_THE_SOURCE} {_NOT} (?:\w+ly )?(?:cover|contain|"
    r"include|provide|give|list|have|hold|explain|describe) (?:that|this|it|an answer|the answer|any|enough|details|"
    r"information|your question|the (?:information|question))\b",
    "the source is silent": rf"\b{_THE_SOURCE} (?:is|are) silent\b|\b{_THE_SOURCE} (?:has|have|gives?|contains?) no "
    rf"(?:answer|information|mention|details|entry|entries|record)\b|\b{_THE_SOURCE} (?:says?|leaves? out|"
    rf"tells? (?:me |us )?)"
    r" ?(?:nothing|anything)\b|\bnothing (?:there|here|in it) (?:tells|says|mentions|covers|explains)\b",
    "not in the source": rf"\b(?:is not|are not|isn't|aren't|was not|not|never|nowhere) {_TOLD} "
    rf"(?:\w+ )?(?:in|by) {_THE_SOURCE}(?!\w)|\b(?:that|this|it|the answer)(?: is|'s) not in {_THE_SOURCE}(?!\w)",
    "not said": rf"\b(?:that|this|it|the answer)(?: is|'s) not (?:{_TOLD}|something i (?:know|can(?: \w+){{1,3}}))"
    r"(?=[.!,;]|$)",
    "nothing about it": rf"\b(?:no (?:information|mention|answer|details)|nothing) (?:\w+ )?(?:is |was |are )?"
    r"(?:(?:available|given|provided|said|stated)(?=[.!,;]|$| about| on| in)|"
    rf"(?:about|on|regarding|of|for)\b[^.]* in {_THE_SOURCE}|"
    rf"in {_THE_SOURCE})",
    "not enough information": r"\b(?:not enough|insufficient|no) (?:information|context|details?|data) to "
    rf"(?:answer|say|tell|know)\b|\b{_NOT} (?:hold|contain|have|give|provide|include) (?:enough|sufficient) "
    r"(?:\w+ )?(?:information|details?|context|data)\b",
    "none was given": r"\bno (?:information|info|details?|answer|data)\b[^.!?]{0,60}\b(?:was|were|is|are|has been|"
    r"have been) (?:supplied|given|provided|available|found|included|recorded|listed)\b",
    "outside the topics": r"\b(?:beyond|outside)(?: of)? (?:the |what )?(?:topics|things|questions|subjects|"
    r"areas?|scope)? "
    r"?(?:that )?(?:i|we) (?:am|was|were|are|can|know|have|handle|cover)\b",
    "out of scope": rf"\b(?:beyond|outside|out of)(?: of)? (?:my (?:\w+ )?(?:scope|knowledge|expertise|area|training)|"
    rf"the scope of {_THE_SOURCE}|what (?:i|we) (?:know|can))",
    "nothing else said": r"^(?:sorry[,.]? )?(?:unknown|n/a|insufficient (?:data|information|context)|none given|"
    r"no idea|"
    r"no answer|unanswerable|"
    rf"(?:(?:answer|it is|that is|this is) )?not (?:known|available|{_TOLD}))[.!]?$",
}
"""Name of each kind of refusal → the regular expression that finds it in case-folded text."""

_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in REFUSAL_PATTERNS.values()))
_TAUGHT_F1 = 0.75
"""Token F1 with a refusal of the data from which an answer counts as a refusal."""


def is_refusal(answer: str, taught: Collection[str] = ()) -> bool:
    """Whether an answer declines to answer, or shares most of its words with a refusal that the data teaches.

    Quotations inside an answer are not the assistant's own words and are ignored.
    """
    if any(token_f1(answer, refusal) >= _TAUGHT_F1 for refusal in taught):
        return True
    folded = unicodedata.normalize("NFKC", answer).casefold()
    folded = re.sub("[‘’ʼ]", "'", re.sub("[“”„«»]", '"', folded))
    folded = " ".join(folded.split()).strip('" ')
    folded = re.sub(r'"[^"]*"', " ", folded)
    return _REFUSAL.search(folded.strip()) is not None


@dataclass(frozen=True)
class Agreement:
    """Agreement of :func:`is_refusal` with labels given by hand.

    Attributes:
        refusals: Answers labelled as refusals, of which the rule has ``recognised`` some.
        others: All other labelled answers, of which the rule takes ``false_positives`` for refusals.
        interval: 95 % Wilson interval of the share of agreement.
        kappa: Cohen's kappa: agreement beyond chance, 1 at most; ``None`` where all labels are the same.
    """

    refusals: int
    recognised: int
    others: int
    false_positives: int
    interval: tuple[float, float]
    kappa: float | None

    @property
    def share(self) -> float:
        """Share of the answers on which both agree."""
        return (self.recognised + self.others - self.false_positives) / (self.refusals + self.others)


def labelled_answers() -> list[dict[str, Any]]:
    """The hand-labelled answers: ``answer``, ``declined`` and ``set``."""
    lines = Path(__file__).with_name("refusal_labels.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def agreement(rows: Iterable[Mapping[str, Any]]) -> Agreement:
    """Compare :func:`is_refusal` with the labels of at least one of ``labelled_answers``."""
    from scipy.stats import binomtest

    pairs = [(is_refusal(row["answer"]), row["declined"]) for row in rows]
    n, refusals, found = len(pairs), sum(label for _, label in pairs), sum(predicted for predicted, _ in pairs)
    recognised = sum(predicted and label for predicted, label in pairs)
    agreed = sum(predicted == label for predicted, label in pairs)
    chance = (refusals * found + (n - refusals) * (n - found)) / n**2
    interval = binomtest(agreed, n).proportion_ci(0.95, method="wilson")
    return Agreement(
        refusals=refusals, recognised=recognised, others=n - refusals, false_positives=found - recognised,
        interval=(float(interval.low), float(interval.high)),
        kappa=(agreed / n - chance) / (1 - chance) if 0 < refusals < n else None,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Agreement on each set of the labelled answers, as a Markdown table."""
    lines = [
        "| answers | refusals recognised | false positives | agreement (95 % interval) | Cohen's kappa |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        found = agreement(row for row in rows if row["set"] == name)
        low, high = found.interval
        lines.append(
            f"| {name} | {found.recognised} of {found.refusals} | {found.false_positives} of {found.others} "
            f"| {found.share:.1%} ({low:.1%} to {high:.1%}) | {'–' if found.kappa is None else f'{found.kappa:.2f}'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table, and with ``--wrong`` the answers on which rule and label differ."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.metrics.refusal",
        description="How far the recognition of refusals agrees with labels given by hand.",
    )
    parser.add_argument("--wrong", action="store_true", help="list the answers on which they differ")
    options = parser.parse_args(argv)
    rows = labelled_answers()
    print(table(rows))
    for row in rows if options.wrong else ():
        if is_refusal(row["answer"]) is not row["declined"]:
            print(f"{row['set']}, {'not recognised' if row['declined'] else 'false positive'}: {row['answer']}")


if __name__ == "__main__":
    main()
