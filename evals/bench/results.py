"""From the records of single runs to one row a contender; pure arithmetic over plain records."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assistant_builder.config import ARMS
from assistant_builder.errors import EvaluationError
from evals.bench.contenders import BASES, EVERYONE, Contender, Family

Run = Mapping[str, Any]
"""What ``evals.bench.child.measure`` returns, with the ``round`` it belongs to."""

_TOKEN_TOLERANCE = 0.05
"""Contenders may differ in their tokens by what the chat template puts after an answer, and by no more."""
_BUSY = 0.1
"""Share of the processors in others' use from which the wall times are called disturbed."""
_LOSS_TOLERANCE = 0.03
"""Nats a token; the margin that the product's own verdicts use by default."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One contender over all rounds.

    Attributes:
        contender: Whose row it is.
        rounds: Runs that it stands for.
        tokens_per_second: Non-padding tokens of the timed steps over their wall time.
        cpu_seconds_per_1000_tokens: Processor time; tells most where others use the machine.
        versus_plain: Speed over that of the plain TRL script on the same base, round by round; None without it.
        versus_tuned: The same against the tuned TRL script.
        peak_memory_bytes: Highest of all runs: resident in RAM, or allocated on the GPU.
        first_loss: Training loss of the first step, in nats a supervised token.
        last_loss: Training loss of the last step.
        validation_loss: After training, on pairs nobody trained on.
        others_share: Share of the processors that other processes used meanwhile.
    """

    contender: Contender
    rounds: int
    tokens_per_second: Spread
    cpu_seconds_per_1000_tokens: Spread
    versus_plain: Spread | None
    versus_tuned: Spread | None
    peak_memory_bytes: int
    first_loss: Spread
    last_loss: Spread
    validation_loss: Spread
    others_share: Spread

    def to_record(self) -> dict[str, Any]:
        """The form of ``bench.json``."""
        return {"contender": self.contender.name, **{k: v for k, v in asdict(self).items() if k != "contender"}}


def summarize(runs: Sequence[Run]) -> list[Row]:
    """One row for each contender that ran, in the order of the table.

    Raises:
        EvaluationError: The contenders did not train on the same amount of text, so their speeds cannot be compared.
    """
    _require_same_tokens(runs)
    return [_row(contender, runs) for contender in EVERYONE if _of(runs, contender)]


def _of(runs: Sequence[Run], contender: Contender) -> dict[int, Run]:
    return {run["round"]: run for run in runs if run["contender"] == contender.name}


def _row(contender: Contender, runs: Sequence[Run]) -> Row:
    own = list(_of(runs, contender).values())

    def spread(value: Callable[[Run], float]) -> Spread:
        return Spread.of([value(run) for run in own])

    return Row(
        contender=contender,
        rounds=len(own),
        tokens_per_second=spread(lambda run: run["tokens_per_second"]),
        cpu_seconds_per_1000_tokens=spread(lambda run: run["cpu_seconds_per_1000_tokens"]),
        versus_plain=_versus(runs, contender, "plain"),
        versus_tuned=_versus(runs, contender, "tuned"),
        peak_memory_bytes=max(run["peak_memory_bytes"] for run in own),
        first_loss=spread(lambda run: run["step_losses"][0]),
        last_loss=spread(lambda run: run["step_losses"][-1]),
        validation_loss=spread(lambda run: run["validation_loss"]),
        others_share=spread(lambda run: run["others_share"]),
    )


def _versus(runs: Sequence[Run], contender: Contender, family: Family) -> Spread | None:
    other = Contender(family, contender.arm)
    return None if other == contender else ratio(runs, contender, other)


def ratio(runs: Sequence[Run], contender: Contender, other: Contender) -> Spread | None:
    """Speed over another's, each round by itself, so that what slows a whole round cancels; None without both."""
    own, others = _of(runs, contender), _of(runs, other)
    ratios = [own[at]["tokens_per_second"] / others[at]["tokens_per_second"] for at in own.keys() & others.keys()]
    return Spread.of(ratios) if ratios else None


def arms_ratio(runs: Sequence[Run]) -> Spread | None:
    """Speed of our NF4 arm over that of our 16-bit arm, round by round."""
    return ratio(runs, Contender("ours", "qlora"), Contender("ours", "lora"))


def _require_same_tokens(runs: Sequence[Run]) -> None:
    totals = {run["contender"]: sum(run["step_tokens"]) for run in runs}
    if max(totals.values()) > (1 + _TOKEN_TOLERANCE) * min(totals.values()):
        raise EvaluationError(
            f"the contenders trained on different amounts of text: {totals} tokens",
            remedy="Their speeds cannot be compared; a newer trl may treat the data otherwise",
        )


def remarks(rows: Sequence[Row]) -> list[str]:
    """What about these numbers calls for care: a disturbed machine, losses that differ."""
    said = []
    worst = max(rows, key=lambda row: row.others_share.median)
    if worst.others_share.median > _BUSY:
        said.append(
            f"Other processes used up to {worst.others_share.median:.0%} of the processors (median of the rounds): the "
            "wall times are rough, so compare the processor time too."
        )
    if any(row.rounds < 5 for row in rows):
        said.append("Fewer than five rounds: a trial, not a measurement.")
    for arm in ARMS:
        losses = {row.contender.family: row.validation_loss.median for row in rows
                  if row.contender.arm == arm and row.contender.family != "factory"}
        if "ours" in losses and len(losses) > 1:
            best = min(loss for family, loss in losses.items() if family != "ours")
            gap = losses["ours"] - best
            verdict = "no worse" if gap <= _LOSS_TOLERANCE else "worse: the speed is not at equal results"
            said.append(f"Validation loss on the {BASES[arm]}: ours {gap:+.3f} nats a token against the better TRL "
                        f"script, {verdict} (tolerance {_LOSS_TOLERANCE}).")
    return said
