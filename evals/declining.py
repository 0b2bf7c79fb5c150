"""Recognise answers that decline to answer.

By a list of English phrases, or by the words in which the data itself teaches to decline; no model, so that it can be
read and gives the same result everywhere. An answer that says it does not know and then answers all the same counts as
declined; a decline in another language is recognised only where the data teaches it.

``declines.jsonl`` holds hand-labelled answers, and ``python -m evals.declining`` prints how far the list agrees with
them. The list was written and widened with every set but ``blind`` at hand, so agreement there shows only that it does
what was meant. ``blind`` was written by someone who had never seen the list, who was asked for declines in as many
wordings as real assistants use, and the list has not been changed for it: it finds less than half of those, and takes
next to nothing else for a decline. What is counted as declined is therefore a lower bound.
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

from evals.decline_phrases import DECLINES
from evals.metrics import token_f1

_DECLINE = re.compile("|".join(f"(?:{pattern})" for pattern in DECLINES.values()))
_TAUGHT = 0.75
"""Token F1 from which an answer counts as a decline of the data."""


def declined(answer: str, taught: Collection[str] = ()) -> bool:
    """Whether an answer declines to answer, by the phrases of ``DECLINES`` or in the words that the data teaches.

    What stands in quotation marks inside an answer is not the assistant speaking and is left out.

    Args:
        answer: What the assistant wrote.
        taught: Answers of the data that decline; one that shares most of its words with the answer makes it a decline.
    """
    if any(token_f1(answer, decline) >= _TAUGHT for decline in taught):
        return True
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
