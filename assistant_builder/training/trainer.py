"""TRL's SFTTrainer, with what a fair and resumable pair of arms needs beside it.

Ours are: the loss over supervised positions only, the fixed order of the pairs, float32 adapters in both arms,
checkpoints that count only when whole, tensors restored in place (so that carrying on gives the same bytes), and the
events that the page draws.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from assistant_builder.config import TrainConfig
from assistant_builder.errors import StudyError
from assistant_builder.models.layers import hold_in_compute_dtype
from assistant_builder.models.prompts import Example, Prompter
from assistant_builder.planning.extrapolation import Ahead
from assistant_builder.training import checkpoints
from assistant_builder.training.batches import IGNORED, FixedOrder, LeftPadding, summed_nll, to_dataset
from assistant_builder.training.fusing import fuse
from assistant_builder.training.progress import MetricsLog, memory_bytes
from assistant_builder.training.samples import SampleQuestion, sample_answers, written_tokens
from assistant_builder.training.schedule import best_step, sample_order, sample_steps, total_steps, validation_steps

_CHECKPOINT_SECONDS = 600.0
"""Longest work that a crash may cost, apart from the checkpoints at each validation."""


@dataclass(frozen=True)
class Plan:
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
        after_validation: Asked with the step and the validation losses so far; True ends the run there.
        on_step: Told the step, the number of steps and the estimated seconds to the end.
        samples: Validation questions that are answered now and then, for the user to read.
    """

    train: TrainConfig
    train_examples: Sequence[Example]
    validation_examples: Sequence[Example]
    folder: Path
    device: str
    gradient_checkpointing: bool
    hold: bool
    cancelled: Callable[[], bool]
    after_validation: Callable[[int, dict[int, float]], bool]
    on_step: Callable[[int, int, float], None]
    samples: Sequence[SampleQuestion] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of the full run."""
        return total_steps(self.train, len(self.train_examples))

    @cached_property
    def ahead(self) -> Ahead:
        """What the full run does, so that its time can be told from its first steps."""
        lengths = [len(example.input_ids) for example in self.train_examples]
        return Ahead(
            steps=self.steps, tokens=sum(lengths[index] for index in sample_order(lengths, self.train)),
            validations=len(validation_steps(self.train, self.steps)),
            validation_tokens=sum(len(example.input_ids) for example in self.validation_examples),
            samplings=len(sample_steps(self.train, self.steps)) if self.samples else 0,
            sample_tokens=written_tokens(self.samples) if self.samples else 0,
        )


class TwinTrainer(SFTTrainer):
    """Trains one arm.

    Args:
        model: The frozen base with float32 adapters.
        plan: What to train on and how.
        prompter: Tokenizer of the base.

    Attributes:
        start: Step of the last whole checkpoint, from which :meth:`run` carries on; 0 without one.
    """

    def __init__(self, model: PeftModel, plan: Plan, prompter: Prompter) -> None:
        self.plan = plan
        self.root = plan.folder / "checkpoints"
        self.start = checkpoints.resume_step(self.root, plan.folder / "metrics.jsonl")
        self.metrics = MetricsLog(
            plan.folder / "metrics.jsonl", step=self.start, steps=plan.steps, ahead=plan.ahead
        )
        self.step_loss = 0.0
        self.step_tokens = 0
        self.step_grad_norm = 0.0
        if plan.device == "cpu":
            if plan.hold:
                hold_in_compute_dtype(model, model.config.dtype)
            fuse(model, model.config.dtype)
        adapters = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
        self._prompter = prompter
        super().__init__(
            model=model,
            args=_arguments(plan, self.root),
            train_dataset=to_dataset(plan.train_examples),
            data_collator=LeftPadding(prompter.pad_id),
            processing_class=prompter.tokenizer,
            callbacks=[_Events(self)],
        )
        # adapters hold no embeddings; to find that out by itself PEFT asks the hub for the base's config at every save
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
        for name, value in model.named_parameters():
            if value.requires_grad:  # SFTTrainer rounds them to bfloat16 over a 4-bit base, and only there
                value.data = adapters[name]
        self.model_accepts_loss_kwargs = True  # the loss below divides by the tokens of the whole optimizer step

    def run(self) -> None:
        """Train from the last whole checkpoint, or from the beginning."""
        whole = checkpoints.complete_steps(self.root)
        checkpoints.remove_all_but(self.root, {step for step in whole if step <= self.start})
        self.train(resume_from_checkpoint=str(checkpoints.checkpoint_folder(self.root, self.start))
                   if self.start else None)

    # what a step computes

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(example.input_ids) for example in self.plan.train_examples]
        return FixedOrder(sample_order(lengths, self.plan.train))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Summed NLL of the micro-batch over the supervised tokens of the whole optimizer step."""
        loss = summed_nll(model, inputs) / num_items_in_batch
        self.step_loss += loss.item()
        self.step_tokens += int(inputs["attention_mask"].sum())
        return loss * self.accelerator.num_processes if self.accelerator.num_processes > 1 else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.step_grad_norm = float(norm)
        return norm

    def validation_loss(self) -> float:
        """Token-weighted NLL of the validation pairs, in nats a token, in a fixed order of batches."""
        examples = sorted(self.plan.validation_examples, key=lambda example: len(example.input_ids))
        rows = to_dataset(examples)
        size = self.args.per_device_train_batch_size
        model = self.model.eval()
        total, tokens = 0.0, 0
        with torch.no_grad():
            for at in range(0, len(rows), size):
                batch = self.data_collator([rows[index] for index in range(at, min(at + size, len(rows)))])
                total += summed_nll(model, {key: value.to(self.args.device) for key, value in batch.items()}).item()
                tokens += int((batch["labels"] != IGNORED).sum())
        model.train()
        return total / tokens

    def answer_samples(self) -> list[dict[str, Any]]:
        """What the arm answers to the plan's sample questions as it stands."""
        if not self.plan.samples:
            return []
        answers = sample_answers(self.model, self._prompter, self.data_collator, self.plan.samples)
        return [
            {"row": asked.row, "question": asked.question, "reference": asked.reference, "answer": answer}
            for asked, answer in zip(self.plan.samples, answers, strict=True)
        ]

    # what is kept

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        Trainer._save_checkpoint(self, model, trial)  # SFTTrainer's own only adds a model card
        checkpoints.mark_complete(checkpoints.checkpoint_folder(self.root, step))
        best = best_step(self.metrics.validation)
        checkpoints.remove_all_but(self.root, {step} | ({best} if best is not None else set()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        outcome = set_peft_model_state_dict(self.model, weights)
        if outcome.unexpected_keys:
            raise StudyError(
                "the checkpoint does not fit the adapters", where=resume_from_checkpoint,
                remedy="Run the study again with --redo",
            )


class _Events(TrainerCallback):
    """Decides after each step whether to validate, to save, to stop; writes the events."""

    def __init__(self, trainer: TwinTrainer) -> None:
        self._trainer = trainer
        self._validations = set(validation_steps(trainer.plan.train, trainer.plan.steps))
        self._samplings = set(sample_steps(trainer.plan.train, trainer.plan.steps))
        self._step_started = 0.0
        self._saved = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Start the clock of the step."""
        trainer = self._trainer
        trainer.step_loss, trainer.step_tokens = 0.0, 0
        self._step_started = time.monotonic()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Record the step; validate, save and stop where due."""
        trainer, step = self._trainer, state.global_step
        if not torch.isfinite(torch.tensor(trainer.step_loss)):
            raise StudyError(
                f"the training loss is {trainer.step_loss} at step {step}", where=str(trainer.plan.folder),
                remedy="Lower train.learning_rate, or use model.compute_dtype=bfloat16",
            )
        eta = trainer.metrics.record_step(
            step, tokens=trainer.step_tokens, seconds=time.monotonic() - self._step_started,
            values={
                "epoch": round(step * trainer.plan.train.batch_size / len(trainer.plan.train_examples), 4),
                "loss": trainer.step_loss,
                "learning_rate": trainer.lr_scheduler.get_last_lr()[0],
                "grad_norm": trainer.step_grad_norm,
                "memory_bytes": memory_bytes(trainer.plan.device),
            },
        )
        trainer.plan.on_step(step, trainer.plan.steps, eta)
        ends = False
        if step in self._validations:
            trainer.metrics.record_validation(step, trainer.validation_loss())
            if step in self._samplings:
                trainer.metrics.record_samples(step, trainer.answer_samples())
            ends = trainer.plan.after_validation(step, trainer.metrics.validation)
            control.should_save = True
        if trainer.plan.cancelled():
            ends = control.should_save = True
        if time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            control.should_save = True
        if control.should_save:
            self._saved = time.monotonic()
        control.should_training_stop = ends or step >= trainer.plan.steps
        return control


def _arguments(plan: Plan, root: Path) -> SFTConfig:
    train = plan.train
    micro = min(train.micro_batch_size, train.batch_size)
    optimizer = {"adamw": "adamw_torch_fused" if plan.device == "cuda" else "adamw_torch"}
    return SFTConfig(
        output_dir=str(root),
        num_train_epochs=1,  # the fixed order holds all epochs
        max_steps=plan.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // micro,
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
    )
