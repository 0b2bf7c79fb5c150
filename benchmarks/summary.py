"""Results of ``benchmarks.training_speed``: table of the records of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from assistant_builder.arms import TWINS
from assistant_builder.errors import EvaluationError
from benchmarks.candidates import BASES, CPU_ORDER, Candidate, Family, Run, Spread, spread_text

_TOKEN_TOLERANCE = 0.05
"""Allowed difference of the candidates' tokens, because some add the chat template's line break after an answer."""
_BUSY = 0.1
"""Share of the processors used by other processes from which wall times count as disturbed."""
_LOSS_TOLERANCE = 0.03
"""Nats a token; the margin that the product's own verdicts use by default."""
_COLUMNS = (
    "",
    "tokens/s",
    "x plain TRL",
    "x tuned TRL",
    "CPU s per 1,000 tokens",
    "peak memory",
    "training loss",
    "validation loss",
)


@dataclass(frozen=True)
class Row:
    """One candidate over all rounds."""

    candidate: Candidate
    rounds: int  # number of runs
    tokens_per_second: Spread  # non-padding tokens of the timed steps over their wall time
    cpu_seconds_per_1000_tokens: Spread  # CPU time, the better measure on a busy machine
    versus_plain: (
        Spread | None
    )  # speed relative to the plain TRL script on the same base, round by round
    versus_tuned: Spread | None  # speed relative to the tuned TRL script
    peak_memory_bytes: int  # highest of all runs: resident in RAM, or allocated on the GPU
    first_loss: Spread  # training loss of the first step, in nats a supervised token
    last_loss: Spread  # training loss of the last step
    validation_loss: Spread  # loss after training on pairs that no candidate trained on
    others_share: Spread  # share of the CPUs that other processes used

    def to_record(self) -> dict[str, Any]:
        """Its record in ``bench.json``."""
        return {
            "candidate": self.candidate.name,
            **{k: v for k, v in asdict(self).items() if k != "candidate"},
        }


def summarize(runs: Sequence[Run]) -> list[Row]:
    """One row for each candidate that ran, in the order of the table.

    Raises:
        EvaluationError: The candidates did not train on the same amount of text, so their speeds cannot be compared.
    """
    _require_same_tokens(runs)
    return [_row(candidate, runs) for candidate in CPU_ORDER if _of(runs, candidate)]


def _of(runs: Sequence[Run], candidate: Candidate) -> dict[int, Run]:
    return {run["round"]: run for run in runs if run["candidate"] == candidate.name}


def _row(candidate: Candidate, runs: Sequence[Run]) -> Row:
    own = list(_of(runs, candidate).values())

    def spread(value: Callable[[Run], float]) -> Spread:
        return Spread.of([value(run) for run in own])

    return Row(
        candidate=candidate,
        rounds=len(own),
        tokens_per_second=spread(lambda run: run["tokens_per_second"]),
        cpu_seconds_per_1000_tokens=spread(lambda run: run["cpu_seconds_per_1000_tokens"]),
        versus_plain=_versus(runs, candidate, "plain"),
        versus_tuned=_versus(runs, candidate, "tuned"),
        peak_memory_bytes=max(run["peak_memory_bytes"] for run in own),
        first_loss=spread(lambda run: run["step_losses"][0]),
        last_loss=spread(lambda run: run["step_losses"][-1]),
        validation_loss=spread(lambda run: run["validation_loss"]),
        others_share=spread(lambda run: run["others_share"]),
    )


def _versus(runs: Sequence[Run], candidate: Candidate, family: Family) -> Spread | None:
    other = Candidate(family, candidate.arm)
    return None if other == candidate else ratio(runs, candidate, other)


def ratio(runs: Sequence[Run], candidate: Candidate, other: Candidate) -> Spread | None:
    """Ratio of two speeds, round by round, so that a slow round cancels out; None without both."""
    own, others = _of(runs, candidate), _of(runs, other)
    ratios = [
        own[at]["tokens_per_second"] / others[at]["tokens_per_second"]
        for at in own.keys() & others.keys()
    ]
    return Spread.of(ratios) if ratios else None


def arms_ratio(runs: Sequence[Run]) -> Spread | None:
    """Speed of our NF4 arm over that of our 16-bit arm, round by round."""
    return ratio(runs, Candidate("ours", "qlora"), Candidate("ours", "lora"))


def _require_same_tokens(runs: Sequence[Run]) -> None:
    totals = {run["candidate"]: sum(run["step_tokens"]) for run in runs}
    if max(totals.values()) > (1 + _TOKEN_TOLERANCE) * min(totals.values()):
        raise EvaluationError(
            f"the candidates trained on different amounts of text: {totals} tokens",
            remedy="Their speeds cannot be compared; a newer trl may process the data differently",
        )


def caveats(rows: Sequence[Row]) -> list[str]:
    """Caveats: a disturbed machine, too few rounds, losses that differ."""
    lines = []
    worst = max(rows, key=lambda row: row.others_share.median)
    if worst.others_share.median > _BUSY:
        lines.append(
            f"Other processes used up to {worst.others_share.median:.0%} of the processors (median of the rounds): the "
            "wall times are rough, so compare the processor time too."
        )
    if any(row.rounds < 5 for row in rows):
        lines.append("Fewer than five rounds: a trial, not a measurement.")
    for arm in TWINS:
        losses = {
            row.candidate.family: row.validation_loss.median
            for row in rows
            if row.candidate.arm == arm and row.candidate.family != "factory"
        }
        if "ours" in losses and len(losses) > 1:
            best = min(loss for family, loss in losses.items() if family != "ours")
            gap = losses["ours"] - best
            verdict = (
                "no worse" if gap <= _LOSS_TOLERANCE else "worse: the speed is not at equal results"
            )
            lines.append(
                f"Validation loss on the {BASES[arm]}: ours {gap:+.3f} nats a token against the better TRL "
                f"script, {verdict} (tolerance {_LOSS_TOLERANCE})."
            )
    return lines


def render(rows: Sequence[Row], *, device: str) -> Table:
    """A table with a block of rows for each base."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="median of the rounds, lowest to highest in brackets",
        caption_justify="left",
    )
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    arm = None
    for row in rows:
        if row.candidate.arm != arm:
            arm = row.candidate.arm
            table.add_section()
            table.add_row(BASES[arm], *[""] * (len(_COLUMNS) - 1), style="bold")
        table.add_row(f"  {row.candidate.title}", *_cells(row, device))
    return table


def _cells(row: Row, device: str) -> list[str]:
    memory = f"{row.peak_memory_bytes / 1e9:.2f} GB {'GPU' if device == 'cuda' else 'RAM'}"
    return [
        spread_text(row.tokens_per_second, 0),
        spread_text(row.versus_plain, 2),
        spread_text(row.versus_tuned, 2),
        spread_text(row.cpu_seconds_per_1000_tokens, 1),
        memory,
        f"{row.first_loss.median:.2f} → {row.last_loss.median:.2f}",
        spread_text(row.validation_loss, 3),
    ]
