"""The contenders that a user would write with TRL: the script of its documentation, and one that was tuned.

Imports torch: only child processes import this module.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from assistant_builder.config import Arm
from assistant_builder.data import Pair
from assistant_builder.models.chat_template import ChatTokenizer
from evals.bench.job import Job
from evals.bench.ruler import Trained
from evals.bench.stopwatch import Stopwatch

_TUNED: dict[str, Any] = {"gradient_checkpointing": False, "train_sampling_strategy": "sequential"}
"""What makes SFTTrainer faster by settings alone; the rows come in batches of similar length.

Measured against it on two cores, and not faster on pairs of 50 or 84 tokens: packing to 512 or 1,024 tokens, bfloat16
weights without autocast, twice the micro-batch, and ``group_by_length``, which sorts only within four batches or more.
"""


def train(job: Job, arm: Arm, scratch: Path, watch: Stopwatch, device: str, *, tuned: bool,
          more: Mapping[str, Any] | None = None) -> Trained:
    """Train with ``SFTTrainer`` on conversational prompt-completion rows.

    Args:
        job: What to train.
        arm: Over which base: ``lora`` in the compute dtype, ``qlora`` NF4 with double quantization.
        scratch: Folder for what the trainer writes.
        watch: Stamps the steps.
        device: ``cpu`` or ``cuda``.
        tuned: Without checkpointing and with batches of similar length; else every setting that the comparison does
            not fix keeps the default of ``SFTConfig``.
        more: Further arguments of ``SFTConfig``.
    """
    config = job.train
    micro = min(config.micro_batch_size, config.batch_size)
    pairs = _batches_of_similar_length(job) if tuned else job.pairs
    rows = [[{"role": message.role, "content": message.content} for message in pair.messages] for pair in pairs]
    trainer = SFTTrainer(
        model=load_base(job, arm),
        args=SFTConfig(
            output_dir=str(scratch),
            num_train_epochs=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=config.batch_size // micro,
            learning_rate=config.learning_rate,
            max_length=config.max_length,
            seed=config.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",  # without a GPU its bfloat16 default is refused otherwise
            bf16=job.model.compute_dtype == "bfloat16",
            fp16=job.model.compute_dtype == "float16",
            **(_TUNED if tuned else {}),
            **(more or {}),
        ),
        train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(job.folder),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
            target_modules="all-linear",
        ),
        callbacks=[watch],
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(trainer.model, [entry["loss"] for entry in logs], [int(entry["num_tokens"]) for entry in logs])


def _batches_of_similar_length(job: Job) -> list[Pair]:
    prompter = ChatTokenizer.load(job.folder)
    pairs = sorted(job.pairs, key=prompter.count_tokens)
    size = job.train.batch_size
    batches = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    random.Random(job.train.seed).shuffle(batches)
    return [pair for batch in batches for pair in batch]


def load_base(job: Job, arm: Arm) -> Any:
    """A base as transformers loads it.

    Args:
        job: Which one.
        arm: ``lora`` in the compute dtype, ``qlora`` NF4.
    """
    dtype = getattr(torch, job.model.compute_dtype)
    if arm == "lora":
        return AutoModelForCausalLM.from_pretrained(job.folder, dtype=dtype)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=job.model.quant_type, bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=job.model.double_quant,
    )
    return AutoModelForCausalLM.from_pretrained(job.folder, dtype=dtype, quantization_config=four_bit)
