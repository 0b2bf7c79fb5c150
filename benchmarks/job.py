"""The training task of all candidates: base, settings and pairs, passed to worker processes as a file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import ModelConfig, StudyConfig, TrainConfig
from assistant_builder.data import Pair, prepare_dataset
from assistant_builder.errors import DataError
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.chat_template import ChatTokenizer, Example
from assistant_builder.planning.hardware import this_machine
from assistant_builder.retrieval.grounding import supports, with_facts
from assistant_builder.retrieval.index import facts_of

_SEED = 0
"""Seed of the choice of pairs; the same in every round."""
_SECOND = 0.2
"""Share of prompts with two facts: the rows of the shipped dataset then have 85 tokens, as those of the demo do."""


@dataclass(frozen=True)
class Job:
    """One training task."""

    model: ModelConfig  # base model settings; the compute dtype is never ``auto``
    train: TrainConfig  # training settings; ``max_steps`` is the number of steps of a run, warm-up included
    folder: Path  # folder of the base
    warmup_steps: int  # first steps of a run, which are not timed
    pairs: tuple[Pair, ...]  # training pairs, each of which is used once
    validation: tuple[Pair, ...]  # pairs for the loss after training

    @property
    def steps(self) -> int:
        """Optimizer steps of a run, warm-up included."""
        return len(self.pairs) // self.train.batch_size

    def examples(self, prompter: ChatTokenizer) -> list[Example]:
        """The training pairs as token sequences."""
        return [example for pair in self.pairs for example in prompter.examples(pair)]

    def with_seed(self, seed: int) -> Job:
        """The same task with another seed of initialisation, order and dropout."""
        return replace(self, train=self.train.model_copy(update={"seed": seed}))

    def write(self, path: Path) -> None:
        """Write the task for the worker processes."""
        write_json(
            path,
            {
                "model": self.model.model_dump(mode="json"),
                "train": self.train.model_dump(mode="json"),
                "folder": str(self.folder),
                "warmup_steps": self.warmup_steps,
                "pairs": [pair.to_record() for pair in self.pairs],
                "validation": [pair.to_record() for pair in self.validation],
            },
        )

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what :meth:`write` wrote."""
        record: dict[str, Any] = read_json(path)
        return cls(
            ModelConfig.model_validate(record["model"]),
            TrainConfig.model_validate(record["train"]),
            Path(record["folder"]),
            record["warmup_steps"],
            tuple(Pair.from_record(pair) for pair in record["pairs"]),
            tuple(Pair.from_record(pair) for pair in record["validation"]),
        )


def make_job(
    config: StudyConfig,
    *,
    warmup_steps: int,
    timed_steps: int,
    validation_pairs: int,
    facts: bool = False,
) -> Job:
    """Draw the training pairs from the training split of a data file, and download the base.

    With ``facts``, prompts have facts as those of an assistant that looks facts up, and only questions with an answer
    are drawn.

    Raises:
        DataError: The file has too few pairs with one answer each that fit into ``train.max_length``.
        ModelError: The base cannot be loaded.
    """
    steps = warmup_steps + timed_steps
    folder = fetch_base(config.model)
    prompter = ChatTokenizer.load(folder)
    source = Path(config.data.source)
    longest = config.train.assumed_length  # every candidate gets the same number
    split = prepare_dataset(source, config.data, tokenizer=prompter, max_length=longest).split
    train = config.train.model_copy(
        update={
            "max_length": longest,
            "epochs": 1.0,
            "max_steps": steps,
            "evaluations": 1,
            "micro_batch_size": config.train.micro_batch,
        }
    )
    wanted = steps * train.batch_size
    parts: list[Sequence[Pair]] = [split.train, split.validation]
    if facts:
        parts = [_with_facts(part, split.train) for part in parts]
    pairs, held_back = (_comparable(part, prompter, longest) for part in parts)
    if len(pairs) < wanted:
        raise DataError(
            f"{len(pairs)} training pairs have one answer and fit into {longest} tokens, and {steps} steps of "
            f"{train.batch_size} take {wanted}",
            where=str(source),
            remedy="Use fewer --steps, or a larger file with --data",
        )
    rng = random.Random(_SEED)
    model = (
        config.model
    )  # the compute dtype is fixed here, so that it is the same for all candidates
    if model.compute_dtype == "auto":
        settled = {"compute_dtype": this_machine().compute_dtype, "allow_float32_compute": True}
        model = model.model_copy(update=settled)
    return Job(
        model,
        train,
        folder,
        warmup_steps,
        tuple(rng.sample(pairs, wanted)),
        tuple(rng.sample(held_back, min(validation_pairs, len(held_back)))),
    )


def _with_facts(pairs: Sequence[Pair], training: Sequence[Pair]) -> list[Pair]:
    """The answerable pairs with a fact that states the answer in their prompts, and a second one in a fifth of them."""
    rng = random.Random(_SEED)
    known = [facts_of(pair)[-1] for pair in training if pair.answerable]
    found = []
    for pair in (pair for pair in pairs if pair.answerable):
        (own,) = facts_of(pair)[-1:]
        stated = [fact for fact in known if fact.row != own.row and supports(fact, own)]
        chosen = [rng.choice(stated or [own])]
        if rng.random() < _SECOND:
            chosen.append(rng.choice(known))
        messages = (*with_facts(pair.messages[:-1], chosen), pair.messages[-1])
        found.append(replace(pair, messages=messages))
    return found


def _comparable(pairs: Sequence[Pair], prompter: ChatTokenizer, max_length: int) -> list[Pair]:
    """Pairs that every candidate trains on in the same way: one answer, no token cut off."""
    return [
        pair
        for pair in pairs
        if sum(message.role == "assistant" for message in pair.messages) == 1
        and prompter.count_tokens(pair) < max_length  # TRL adds a line break
    ]
