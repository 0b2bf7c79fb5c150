"""Configuration of each arm, of one training run, and of TRL's trainer. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field
from trl import SFTConfig

from assistant_builder.arms import ARMS, TWINS
from assistant_builder.config import ModelConfig, StudyConfig, TrainConfig
from assistant_builder.models.chat_template import Example
from assistant_builder.planning.memory import ParallelStrategy
from assistant_builder.planning.training_time import WorkRemaining, total_steps
from assistant_builder.training.distributed import COLLECTIVE_SECONDS, fsdp_settings
from assistant_builder.training.sample_generations import SampleQuestion, max_answer_tokens
from assistant_builder.training.schedule import sample_order, sample_steps, validation_steps


class ArmConfig(BaseModel):
    """All settings that determine the training of one arm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_storage: str = Field(description="How the linear layers of the frozen base are stored.")
    model: ModelConfig
    train: TrainConfig


def twin(config: StudyConfig, seed: int = 1) -> dict[str, ArmConfig]:
    """The configuration of the twins, which differ only in ``base_storage``, and of the further arms of a study.

    Seeds are numbered from 1: the first is ``train.seed``, the second ``train.seed + 1``.
    """
    number = {"seed": config.train.seed + seed - 1}
    return {
        arm: ArmConfig(
            base_storage=ARMS[arm].base_storage(config.model.quant_type),
            model=config.model,
            train=config.train_of(arm).model_copy(update=number),
        )
        for arm in dict.fromkeys((*TWINS, *config.arms))
    }


@dataclass(frozen=True)
class TrainingRun:
    """One training run of an arm."""

    train: TrainConfig
    train_examples: Sequence[Example]
    validation_examples: Sequence[Example]
    folder: Path  # ``arms/<arm>``
    device: str
    gradient_checkpointing: bool
    dequantize: bool  # whether the frozen weights are dequantized to the compute dtype during a training on a CPU
    cancelled: Callable[[], bool]  # whether the user cancelled; called after every optimizer step
    # progress callback: step, number of steps, estimated seconds to the end
    on_step: Callable[[int, int, float | None], None]
    samples: Sequence[SampleQuestion] = ()  # validation questions with sample answers
    # parallel strategy; each process has a trainer with the same run
    spread: ParallelStrategy = field(default_factory=ParallelStrategy)
    on_leader: bool = False  # whether FSDP broadcasts weights that only rank 0 has read

    @property
    def steps(self) -> int:
        """Optimizer steps of the full run."""
        return total_steps(self.train, len(self.train_examples))

    def validations(self, end: int) -> list[int]:
        """The steps with a validation of a training that ends after step ``end``."""
        return sorted({*(at for at in validation_steps(self.train, self.steps) if at < end), end})

    def samplings(self, end: int) -> list[int]:
        """The steps with sample answers of a training that ends after step ``end``."""
        return sorted({*(at for at in sample_steps(self.train, self.steps) if at < end), end})

    @cached_property
    def _lengths_in_order(self) -> list[int]:
        lengths = [len(example.input_ids) for example in self.train_examples]
        return [lengths[index] for index in sample_order(lengths, self.train)]

    def work(self, end: int) -> WorkRemaining:
        """Work of a training that ends after step ``end``, from which its time is estimated after the first steps."""
        return WorkRemaining(
            steps=end,
            tokens=sum(self._lengths_in_order[: end * self.train.batch_size]),
            validations=len(self.validations(end)),
            validation_tokens=sum(len(example.input_ids) for example in self.validation_examples),
            samplings=len(self.samplings(end)) if self.samples else 0,
            sample_tokens=max_answer_tokens(self.samples) if self.samples else 0,
        )


def sft_arguments(plan: TrainingRun, root: Path, model: PeftModel) -> SFTConfig:
    """The arguments of TRL's trainer; ``root`` is the folder of the checkpoints."""
    train, cuda = plan.train, plan.device == "cuda"
    micro = train.micro_batch
    sharded = plan.spread.kind == "fsdp"
    # the fused optimizer hides skipped float16 steps from accelerate, and the learning rate schedule would continue
    fused = cuda and model.config.dtype != torch.float16
    optimizer = {"adamw": "adamw_torch_fused" if fused else "adamw_torch"}
    arguments = SFTConfig(
        output_dir=str(root),
        num_train_epochs=1,  # the fixed order contains all epochs
        max_steps=plan.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // (micro * plan.spread.devices),
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(train.warmup_fraction * plan.steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=optimizer.get(train.optimizer, train.optimizer),
        gradient_checkpointing=plan.gradient_checkpointing,
        seed=train.seed,
        bf16=False,  # dtypes are set on the model, equal in all arms; autocast would differ between arms
        fp16=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it reads the loss of every micro-batch, for which the CPU waits
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        accelerator_config={"non_blocking": cuda},
        use_cpu=plan.device == "cpu",
        ddp_backend=("nccl" if cuda else "gloo") if plan.spread.devices > 1 else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=COLLECTIVE_SECONDS,
        fsdp=sharded,
        fsdp_config=fsdp_settings(model, on_leader=plan.on_leader) if sharded else None,
    )
    if arguments.n_gpu > 1:  # transformers counts the visible GPUs, but each process uses one
        arguments._n_gpu = 1
    return arguments
