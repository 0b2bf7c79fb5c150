"""Trainers of the worker processes: this product, and the scripts that a user would write with TRL. Imports torch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.data import Pair
from assistant_builder.inference.padded_batch import LeftPadding, supervised_logits
from assistant_builder.models import loading
from assistant_builder.models.chat_template import ChatTokenizer, Example
from assistant_builder.planning.memory_check import plan_run
from assistant_builder.training.collate import to_dataset
from assistant_builder.training.schedule import sample_order
from assistant_builder.training.sft_config import TrainingRun, twin
from assistant_builder.training.trainer import TwinTrainer
from benchmarks.job import Job
from benchmarks.stopwatch import Stopwatch

_VALIDATION_BATCH = 8
_TUNED: dict[str, Any] = {"gradient_checkpointing": False, "train_sampling_strategy": "sequential"}
"""Settings that make SFTTrainer faster, with rows in batches of similar length.

Not faster on two cores with pairs of 50 or 84 tokens: packing to 512 or 1,024 tokens, bfloat16 weights without
autocast, twice the micro-batch, and ``group_by_length``, which sorts only within four batches or more.
"""


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    model: Any  # the trained model
    losses: list[float]  # training loss of each step, in nats a supervised token
    tokens: list[
        int
    ]  # non-padding tokens trained on up to the end of each step, by the candidate's own count


def validation_loss(model: Any, examples: Sequence[Example], pad_id: int, device: str) -> float:
    """Mean NLL over the answers' tokens, in nats a token."""
    model.eval()
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = (
                False  # its packed kernel rounds differently from training
            )
    rows = to_dataset(sorted(examples, key=lambda example: len(example.input_ids)))
    collate = LeftPadding(pad_id)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(rows), _VALIDATION_BATCH):
            batch = collate(
                [rows[index] for index in range(at, min(at + _VALIDATION_BATCH, len(rows)))]
            )
            logits, targets = supervised_logits(
                model, {key: value.to(device) for key, value in batch.items()}
            )
            total += F.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(targets)
    return total / tokens


def planned(job: Job, arm: str, examples: Sequence[Example] | None = None) -> Any:
    """The product's plan of one arm: whether it recomputes activations and holds a dequantized base."""
    if examples is None:
        examples = job.examples(ChatTokenizer.load(job.folder))
    sequences = [(len(example.input_ids), sum(example.supervised)) for example in examples]
    order = sample_order([length for length, _ in sequences], job.train)
    return plan_run(
        StudyConfig(model=job.model, train=job.train), job.folder, sequences, order
    ).methods[arm]


def train_ours(job: Job, arm: str, scratch: Path, watch: Stopwatch) -> Trained:
    """Train as the product's ``train-lora`` and ``train-qlora`` steps do."""
    settings = twin(StudyConfig(model=job.model, train=job.train))[arm]
    prompter = ChatTokenizer.load(job.folder)
    examples = job.examples(prompter)
    method = planned(
        job, arm, examples
    )  # before the base takes memory that the plan counts as free
    spec = loading.base_spec(job.model, job.folder, settings.base_storage)
    base = loading.load_base(spec)
    model = loading.add_adapter(base, job.train, job.train.seed)
    plan = TrainingRun(
        train=job.train,
        train_examples=examples,
        validation_examples=examples[
            :1
        ],  # the trainer requires a validation, which is after the last timed step
        folder=scratch,
        device=spec.device,
        gradient_checkpointing=method.checkpointing,
        dequantize=method.dequantized,
        cancelled=lambda: False,
        on_step=lambda step, steps, eta: None,
    )
    trainer = TwinTrainer(model, plan, prompter)
    trainer.callback_handler.callbacks.insert(
        0, watch
    )  # before the callback that validates and saves
    trainer.run()
    steps = [event for event in read_jsonl(scratch / "metrics.jsonl") if event["event"] == "step"]
    return Trained(model, [event["loss"] for event in steps], [event["tokens"] for event in steps])


def train_trl(
    job: Job,
    arm: str,
    scratch: Path,
    watch: Stopwatch,
    device: str,
    *,
    tuned: bool,
    more: Mapping[str, Any] | None = None,
) -> Trained:
    """Train with ``SFTTrainer`` on conversational prompt-completion rows.

    ``tuned`` trains without checkpointing and with batches of similar length; else every setting that the comparison
    does not fix keeps the default of ``SFTConfig``. ``more`` are further arguments of ``SFTConfig``.
    """
    config = job.train
    micro = config.micro_batch
    pairs = _batches_of_similar_length(job) if tuned else job.pairs
    rows = [
        [{"role": message.role, "content": message.content} for message in pair.messages]
        for pair in pairs
    ]
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
        train_dataset=Dataset.from_list(
            [{"prompt": row[:-1], "completion": row[-1:]} for row in rows]
        ),
        processing_class=AutoTokenizer.from_pretrained(job.folder),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear",
        ),
        callbacks=[watch],
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        trainer.model,
        [entry["loss"] for entry in logs],
        [int(entry["num_tokens"]) for entry in logs],
    )


def _batches_of_similar_length(job: Job) -> list[Pair]:
    prompter = ChatTokenizer.load(job.folder)
    pairs = sorted(job.pairs, key=prompter.count_tokens)
    size = job.train.batch_size
    batches = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    random.Random(job.train.seed).shuffle(batches)
    return [pair for batch in batches for pair in batch]


def load_base(job: Job, arm: str) -> Any:
    """Load a base as transformers does: ``lora`` in the compute dtype, ``qlora`` in NF4."""
    dtype = getattr(torch, job.model.compute_dtype)
    if arm == "lora":
        return AutoModelForCausalLM.from_pretrained(job.folder, dtype=dtype)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=job.model.quant_type,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=job.model.double_quant,
    )
    return AutoModelForCausalLM.from_pretrained(
        job.folder, dtype=dtype, quantization_config=four_bit
    )
