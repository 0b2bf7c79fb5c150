"""How far the recognition of refusals agrees with the labels given by hand in ``refusal_labels.jsonl``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.metrics.refusal import is_refusal


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
        return (self.recognised + self.others - self.false_positives) / (
            self.refusals + self.others
        )


def labelled_answers() -> list[dict[str, Any]]:
    """The hand-labelled answers: ``answer``, ``declined``, ``set`` and ``language``."""
    lines = (
        Path(__file__).with_name("refusal_labels.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [json.loads(line) for line in lines]


def agreement(rows: Iterable[Mapping[str, Any]]) -> Agreement:
    """Compare :func:`is_refusal` with the labels of at least one of ``labelled_answers``."""
    from scipy.stats import binomtest

    pairs = [(is_refusal(row["answer"]), row["declined"]) for row in rows]
    n, refusals, found = (
        len(pairs),
        sum(label for _, label in pairs),
        sum(predicted for predicted, _ in pairs),
    )
    recognised = sum(predicted and label for predicted, label in pairs)
    agreed = sum(predicted == label for predicted, label in pairs)
    chance = (refusals * found + (n - refusals) * (n - found)) / n**2
    interval = binomtest(agreed, n).proportion_ci(0.95, method="wilson")
    return Agreement(
        refusals=refusals,
        recognised=recognised,
        others=n - refusals,
        false_positives=found - recognised,
        interval=(float(interval.low), float(interval.high)),
        kappa=(agreed / n - chance) / (1 - chance) if 0 < refusals < n else None,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Agreement on each set of the labelled answers, and on each of its languages, as a Markdown table."""
    lines = [
        "| answers | language | refusals recognised | false positives | agreement (95 % interval) | Cohen's kappa |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        languages = list(dict.fromkeys(row["language"] for row in of_set))
        groups[name, languages[0] if len(languages) == 1 else "all"] = of_set
        if len(languages) > 1:
            groups |= {
                (name, each): [row for row in of_set if row["language"] == each]
                for each in languages
            }
    for (name, language), of_group in groups.items():
        found = agreement(of_group)
        low, high = found.interval
        lines.append(
            f"| {name} | {language} | {found.recognised} of {found.refusals} "
            f"| {found.false_positives} of {found.others} | {found.share:.1%} "
            f"({low:.1%} to {high:.1%}) | {'–' if found.kappa is None else f'{found.kappa:.2f}'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table, and with ``--wrong`` the answers on which rule and label differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refusal_agreement",
        description="How far the recognition of refusals agrees with labels given by hand.",
    )
    parser.add_argument(
        "--wrong", action="store_true", help="list the answers on which they differ"
    )
    options = parser.parse_args(argv)
    rows = labelled_answers()
    print(table(rows))
    for row in rows if options.wrong else ():
        if is_refusal(row["answer"]) is not row["declined"]:
            kind = "not recognised" if row["declined"] else "false positive"
            print(f"{row['set']}, {row['language']}, {kind}: {row['answer']}")


if __name__ == "__main__":
    main()
