"""The arms of a study: one config, and one field in which they differ.

One arm's run, and what it comes to as arguments of the trainer.

Imports torch: only worker processes import this module.
"""

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
from assistant_builder.planning.training_time import WorkRemaining
from assistant_builder.training.distributed import fsdp_settings
from assistant_builder.training.sample_generations import SampleQuestion, max_answer_tokens
from assistant_builder.training.schedule import sample_order, sample_steps, total_steps, validation_steps


class ArmConfig(BaseModel):
    """Everything that decides what one arm's training does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_storage: str = Field(description="How the linear layers of the frozen base are stored.")
    model: ModelConfig
    train: TrainConfig


def twin(config: StudyConfig, seed: int = 1) -> dict[str, ArmConfig]:
    """The twins and the further arms of a study; they differ in ``base_storage`` and in nothing else.

    Args:
        config: The study's config.
        seed: Which of the study's seeds, from 1; the first is ``train.seed``, the second one more.
    """
    train = config.train.model_copy(update={"seed": config.train.seed + seed - 1})
    return {
        arm: ArmConfig(base_storage=ARMS[arm].base_storage(config.model.quant_type), model=config.model, train=train)
        for arm in dict.fromkeys((*TWINS, *config.arms))
    }


@dataclass(frozen=True)
class TrainingRun:
    """One arm's run.

    Attributes:
        train: The settings.
        train_examples: Training sequences.
        validation_examples: Validation sequences.
        folder: ``arms/<arm>``.
        device: ``cpu`` or ``cuda``.
        gradient_checkpointing: Whether activations are recomputed.
        hold: Whether the frozen weights are kept in the compute dtype while a CPU trains.
        cancelled: Asked after every optimizer step.
        next_move: Told a step and the validation losses up to it, says what early stop means by it: ``train``,
            ``wait`` for the twin, or ``stop``.
        on_step: Told the step, the number of steps and the estimated seconds to the end.
        samples: Validation questions that are answered now and then, for the user to read.
        spread: How devices share the training; each runs a trainer with the same plan.
        on_leader: Whether FSDP broadcasts weights that the first process alone has read.
    """

    train: TrainConfig
    train_examples: Sequence[Example]
    validation_examples: Sequence[Example]
    folder: Path
    device: str
    gradient_checkpointing: bool
    hold: bool
    cancelled: Callable[[], bool]
    next_move: Callable[[int, dict[int, float]], str]
    on_step: Callable[[int, int, float], None]
    samples: Sequence[SampleQuestion] = ()
    spread: ParallelStrategy = field(default_factory=ParallelStrategy)
    on_leader: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps of the full run."""
        return total_steps(self.train, len(self.train_examples))

    @cached_property
    def ahead(self) -> WorkRemaining:
        """What the full run does, so that its time can be told from its first steps."""
        lengths = [len(example.input_ids) for example in self.train_examples]
        return WorkRemaining(
            steps=self.steps, tokens=sum(lengths[index] for index in sample_order(lengths, self.train)),
            validations=len(validation_steps(self.train, self.steps)),
            validation_tokens=sum(len(example.input_ids) for example in self.validation_examples),
            samplings=len(sample_steps(self.train, self.steps)) if self.samples else 0,
            sample_tokens=max_answer_tokens(self.samples) if self.samples else 0,
        )


def sft_arguments(plan: TrainingRun, root: Path, model: PeftModel) -> SFTConfig:
    """The trainer's arguments.

    Args:
        plan: The run.
        root: The folder of the checkpoints.
        model: The frozen base with adapters.
    """
    train = plan.train
    micro = min(train.micro_batch_size, train.batch_size)
    # the fused one hides from accelerate that a float16 step was skipped, and the schedule would go on without it
    fused = plan.device == "cuda" and model.config.dtype != torch.float16
    optimizer = {"adamw": "adamw_torch_fused" if fused else "adamw_torch"}
    arguments = SFTConfig(
        output_dir=str(root),
        num_train_epochs=1,  # the fixed order holds all epochs
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
        bf16=False,  # dtypes are set on the model itself, the same in both arms; autocast would differ between them
        fp16=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=plan.device == "cuda",
        use_cpu=plan.device == "cpu",
        ddp_backend=("nccl" if plan.device == "cuda" else "gloo") if plan.spread.devices > 1 else None,
        ddp_find_unused_parameters=False,
        fsdp=plan.spread.kind == "fsdp",
        fsdp_config=fsdp_settings(model, on_leader=plan.on_leader) if plan.spread.kind == "fsdp" else None,
    )
    if arguments.n_gpu > 1:  # transformers counts the visible GPUs; one process computes on one of them
        arguments._n_gpu = 1
    return arguments
