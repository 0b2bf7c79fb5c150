"""Who is compared on a GPU, and from their runs to a table for the documentation; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.config import ARMS, Arm
from evals.bench.contenders import BASES
from evals.bench.results import Spread
from evals.bench.table import spread

Family = Literal["ours", "plain", "tuned", "unsloth"]
Run = Mapping[str, Any]
"""What ``benchmarks.contender.measure`` returns, with ``round`` and ``tokens``; or with ``failed`` in its place."""


@dataclass(frozen=True)
class Contender:
    """One way to train one arm.

    Attributes:
        family: Whose training loop runs.
        arm: Over which base.
    """

    family: Family
    arm: Arm

    @property
    def name(self) -> str:
        """How the command line, the files and the child process call it."""
        return f"{self.family}-{self.arm}"


TITLES: dict[Family, str] = {
    "ours": "Assistant Builder", "plain": "TRL, plain", "tuned": "TRL, tuned", "unsloth": "Unsloth",
}
CONTENDERS = tuple(Contender(family, arm) for arm in ARMS for family in TITLES)
NAMES = tuple(contender.name for contender in CONTENDERS)

DIFFERENCES: tuple[str, ...] = (
    "Same for all: base, rows (each trained on once), rank, alpha, no dropout, all linear layers adapted, rows a step "
    "and a micro-batch, peak learning rate, AdamW, gradient clipping, 16-bit arithmetic, seed of the round. Tokens are "
    "those of the rows, without padding. The peak is what PyTorch's allocator gave out on the GPU (on a CPU: resident "
    "memory), loading included.",
    "Assistant Builder: the trainer of `assistant-builder run`, with `train.kernels` as given by `--kernels`.",
    "TRL, plain: `SFTTrainer` as its documentation shows it; gradient checkpointing is its default.",
    "TRL, tuned: `packing=True`, liger-kernel where it is installed, gradient checkpointing only where Assistant "
    "Builder's plan has it too. Without flash-attn packed rows go through PyTorch's own attention.",
    "Unsloth: `FastLanguageModel` and its own gradient checkpointing, by TRL's `SFTTrainer` over plain text: its loss "
    "counts questions too, and a step's tokens are the mean of all rows.",
)


@dataclass(frozen=True)
class Row:
    """One contender at one length over all rounds.

    Attributes:
        contender: Whose row it is.
        tokens: Longest row, in tokens.
        rounds: Runs that succeeded.
        tokens_per_second: Of the timed steps.
        versus_plain: Speed over the plain TRL script's, round by round; None without it.
        peak_memory_bytes: Highest of all runs.
        losses: Of each step, in nats a supervised token, of the first round.
        failed: Why there are no figures; empty where there are.
    """

    contender: Contender
    tokens: int
    rounds: int
    tokens_per_second: Spread | None
    versus_plain: Spread | None
    peak_memory_bytes: int
    losses: tuple[float, ...]
    failed: str = ""

    def to_record(self) -> dict[str, Any]:
        """The row's part of ``--json``."""
        return {
            "contender": self.contender.name, "tokens": self.tokens, "rounds": self.rounds,
            "tokens_per_second": None if self.tokens_per_second is None else vars(self.tokens_per_second),
            "versus_plain": None if self.versus_plain is None else vars(self.versus_plain),
            "peak_memory_bytes": self.peak_memory_bytes, "losses": list(self.losses), "failed": self.failed,
        }


def summarize(runs: Sequence[Run]) -> list[Row]:
    """One row for each contender and length that was tried, in the order of the table."""
    lengths = sorted({run["tokens"] for run in runs})
    return [_row(contender, tokens, runs) for tokens in lengths for contender in CONTENDERS
            if any(run["contender"] == contender.name and run["tokens"] == tokens for run in runs)]


def _of(runs: Sequence[Run], contender: Contender, tokens: int) -> dict[int, Run]:
    return {run["round"]: run for run in runs
            if run["contender"] == contender.name and run["tokens"] == tokens and not run.get("failed")}


def _row(contender: Contender, tokens: int, runs: Sequence[Run]) -> Row:
    own, plain = _of(runs, contender, tokens), _of(runs, Contender("plain", contender.arm), tokens)
    if not own:
        failed = next(run["failed"] for run in runs
                      if run["contender"] == contender.name and run["tokens"] == tokens)
        return Row(contender, tokens, 0, None, None, 0, (), failed)
    ratios = [own[at]["tokens_per_second"] / plain[at]["tokens_per_second"] for at in own.keys() & plain.keys()]
    first = own[min(own)]
    return Row(
        contender, tokens, len(own), Spread.of([run["tokens_per_second"] for run in own.values()]),
        Spread.of(ratios) if ratios and contender.family != "plain" else None,
        max(run["peak_memory_bytes"] for run in own.values()), tuple(first["step_losses"]),
    )


def markdown(rows: Sequence[Row], caption: Sequence[str]) -> str:
    """The table and the loss curves, as Markdown that goes into the documentation as it is.

    Args:
        rows: Of :func:`summarize`.
        caption: What it was measured on and with, a line each.
    """
    lines = [*caption, "", "| longest row | base | trained by | tokens/s | × plain TRL | peak memory | loss, first → "
             "last step |", "| ---: | --- | --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {row.tokens:,} | {BASES[row.contender.arm]} | {TITLES[row.contender.family]} | {_cells(row)} |"
              for row in rows]
    lines += ["", "Median of the rounds, lowest to highest in brackets. Loss of each step of the first round, in nats "
              "a supervised token:", ""]
    lines += [f"- {row.tokens:,} tokens, {BASES[row.contender.arm]}, {TITLES[row.contender.family]}: "
              + " ".join(f"{loss:.3f}" for loss in row.losses) for row in rows if row.losses]
    return "\n".join([*lines, "", *DIFFERENCES])


def _cells(row: Row) -> str:
    if row.failed:
        return f"{row.failed.replace('|', '/')} | – | – | –"
    return " | ".join([
        spread(row.tokens_per_second, 0), spread(row.versus_plain, 2), f"{row.peak_memory_bytes / 1e9:.2f} GB",
        f"{row.losses[0]:.2f} → {row.losses[-1]:.2f}",
    ])
