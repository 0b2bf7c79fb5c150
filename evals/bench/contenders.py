"""Who is compared, and in what the contenders differ beyond their speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from assistant_builder.config import ARMS, Arm

Family = Literal["ours", "plain", "tuned", "factory"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Contender:
    """One way to train one arm.

    Attributes:
        family: Whose training loop runs.
        arm: Over which base: ``lora`` 16-bit, ``qlora`` 4-bit.
    """

    family: Family
    arm: Arm

    @property
    def name(self) -> str:
        """How the command line, the files and the child process call it."""
        return f"{self.family}-{self.arm}"

    @property
    def title(self) -> str:
        """How the table calls it."""
        return _TITLES[self.family]


_TITLES: dict[Family, str] = {
    "ours": "Assistant Builder",
    "plain": "TRL, plain",
    "tuned": "TRL, tuned",
    "factory": "LLaMA-Factory",
}
BASES: dict[Arm, str] = {"lora": "16-bit base", "qlora": "NF4 base"}
CONTENDERS: tuple[Contender, ...] = tuple(
    Contender(family, arm) for arm in ARMS for family in ("plain", "tuned", "ours")
)
OPTIONAL: tuple[Contender, ...] = tuple(Contender("factory", arm) for arm in ARMS)
"""Those that need an environment of their own."""
NAMES = tuple(contender.name for contender in CONTENDERS)
EVERYONE = tuple(sorted((*CONTENDERS, *OPTIONAL), key=lambda contender: ARMS.index(contender.arm)))
"""In the order of the table."""

DIFFERENCES: tuple[str, ...] = (
    "Same for all: base model, pairs (each trained on once), rank, alpha, dropout, adapted layers, pairs a step and a "
    "micro-batch, peak learning rate, AdamW, gradient clipping, arithmetic, seed of the round, threads. The "
    "loss of a step is the mean over its answer tokens.",
    "Assistant Builder: base read as float16 or NF4, float32 adapters, left padding, pairs sorted by length within "
    "eight steps, the head on answer positions only, cosine schedule. On a CPU the base is held in the compute dtype "
    "while it trains (counted in the peak, where NF4 therefore saves nothing), and layers with one input share its "
    "dropout.",
    "TRL, plain: SFTTrainer as its documentation shows it, every setting at its default that is not named above: "
    "gradient checkpointing, autocast where 16 bits are computed in, random order, linear schedule; on a CPU the head "
    "on every position.",
    "TRL, tuned: the same without gradient checkpointing, all pairs sorted by length into batches.",
    "LLaMA-Factory, where it takes part (--llama-factory): its defaults for LoRA, gradient checkpointing among them; "
    "its own chatml template and its own, older libraries. On a CPU over the 16-bit base alone.",
    "TRL stores the 16-bit base in the compute dtype, keeps adapters over a 4-bit base in bfloat16 (float32 over a "
    "16-bit one), and also trains on the line break that the chat template puts after an answer: one token more a "
    "pair, counted in its tokens and in its training loss, not in the validation loss.",
    "Switched off for all: checkpoints and evaluations during the timed steps. On: a log line a step.",
)
"""What a reader has to know to judge the table; printed under it."""


def interleaved(contenders: Sequence[_T], rounds: int) -> list[tuple[int, _T]]:
    """The order of the runs: every round has each contender once, every second round backwards.

    A machine that slowly gets warmer or busier then favours nobody.

    Returns:
        Pairs of round (from 1) and contender.
    """
    order: list[tuple[int, _T]] = []
    for number in range(1, rounds + 1):
        order += [(number, contender) for contender in (contenders if number % 2 else reversed(contenders))]
    return order
