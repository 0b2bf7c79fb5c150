"""TRL's SFTTrainer, extended for a fair and resumable comparison of arms.

The extensions are the loss over supervised positions only, the fixed order of the pairs, float32 adapters in all arms,
checkpoints that are valid only when complete, a resume that restores tensors in place and so gives the same bytes, and
the events that the page plots.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast_object_list
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl import SFTTrainer

from assistant_builder.child_process import memory_bytes
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.lora_layers import dequantize_to_compute_dtype, hold_in_compute_dtype
from assistant_builder.training import checkpoints
from assistant_builder.training.collate import TrainingCollator, summed_nll, to_dataset
from assistant_builder.training.cpu_kernels import fuse_cpu_kernels
from assistant_builder.training.distributed import (
    shard_like,
    shard_optimizer_state,
    unshard,
    unsharded_adapters,
)
from assistant_builder.training.gpu import (
    apply_gpu_kernels,
    deterministic_algorithms,
    has_deterministic_algorithms,
    is_paged,
    load_paged_state,
)
from assistant_builder.training.micro_batch import MicroBatchTooLarge
from assistant_builder.training.progress import MetricsLog
from assistant_builder.training.sample_generations import sample_answers
from assistant_builder.training.schedule import (
    CHECKPOINT_SECONDS,
    Stop,
    best_step,
    sample_order,
    stop_after,
)
from assistant_builder.training.sft_config import TrainingRun, sft_arguments

# lengths of the two rows of the probe step, which runs all operations, padding included, with little memory
_PROBE_TOKENS = (16, 12)
LOSS_SCALE = 2.0**14
"""Initial scale of a float16 loss; halved when a gradient overflows, doubled after 2,000 steps without overflow."""


class TwinTrainer(SFTTrainer):
    """Trains one arm: a frozen base with float32 adapters."""

    def __init__(self, model: PeftModel, plan: TrainingRun, prompter: ChatTokenizer) -> None:
        self.plan = plan
        self.root = plan.folder / "checkpoints"
        self._sharded = plan.spread.kind == "fsdp"
        arguments = sft_arguments(plan, self.root, model)
        self.is_main_process = arguments.process_index == 0  # which writes metrics and checkpoints
        self.start = checkpoints.resume_step(self.root, plan.folder / "metrics.jsonl")
        log, main = plan.folder / "metrics.jsonl", self.is_main_process
        self.metrics = MetricsLog(log, step=self.start, work=plan.work(plan.steps), enabled=main)
        self.stop: Stop | None = None
        self._stop_loss = 0.0
        self.begin_step()
        self._deterministic = False
        if plan.device == "cpu" and not self._sharded:
            if plan.dequantize:
                dequantize_to_compute_dtype(model, model.config.dtype, training=True)
            fuse_cpu_kernels(model, model.config.dtype)
        elif plan.device == "cuda":
            if not self._sharded:
                hold_in_compute_dtype(model, model.config.dtype, plan.device)
            apply_gpu_kernels(model, plan.train.kernels, sharded=self._sharded)
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        adapters = {name: value.detach().clone() for name, value in trained.items()}
        self._prompter = prompter
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=to_dataset(plan.train_examples),
            data_collator=TrainingCollator(prompter.pad_id),
            processing_class=prompter.tokenizer,
            callbacks=[_Events(self)],
        )
        # adapters contain no embeddings; to check that, PEFT would request the base's config from the hub at every save
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
        for name, value in model.named_parameters():
            if value.requires_grad:  # SFTTrainer rounds them to bfloat16 on a 4-bit base only
                value.data = adapters[name]
        # the loss below divides by the tokens of the whole optimizer step
        self.model_accepts_loss_kwargs = True
        # gradients of single tokens are below the range of float16
        if model.config.dtype == torch.float16:
            scaler = torch.amp.GradScaler(self.args.device.type, init_scale=LOSS_SCALE)
            self.accelerator.scaler = scaler

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator; enable FSDP on CPUs, which accelerate 1.15 does not (state.py:983)."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self._sharded and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def run(self) -> None:
        """Train from the last complete checkpoint, or from the beginning.

        Raises:
            MicroBatchTooLarge: The largest micro-batch does not fit the memory of a GPU.
        """
        self.accelerator.wait_for_everyone()  # until all processes have read the start step
        if self.is_main_process:
            complete = checkpoints.complete_steps(self.root)
            usable = {step for step in complete if step <= self.start}
            checkpoints.prune_checkpoints(self.root, usable)
        tried = self.plan.device == "cuda" and not self._sharded
        if tried:
            self._deterministic = has_deterministic_algorithms(self._probe_step)
        if tried and self.all_reduce_max(int(not self._largest_batch_fits())):
            raise MicroBatchTooLarge
        folder = str(checkpoints.checkpoint_folder(self.root, self.start)) if self.start else None
        self.train(resume_from_checkpoint=folder)

    # agreement of the processes

    def broadcast_from_main(self, answer: Any) -> Any:
        """The value of the main process, in every process: values read from disk or a clock may differ."""
        return broadcast_object_list([answer])[0] if self.plan.spread.devices > 1 else answer

    def all_reduce_max(self, value: int) -> int:
        """The maximum over all processes."""
        return int(self.accelerator.gather(torch.tensor([value], device=self.args.device)).max())

    # the end

    @property
    def end(self) -> int:
        """The last step."""
        return self.stop.end if self.stop is not None else self.plan.steps

    def end_by(self, stop_loss: float, stop: Stop | None = None) -> None:
        """End at ``stop``, or as soon as the loss stays below ``stop_loss``; 0: at the last step of the plan."""
        self._stop_loss = stop_loss if stop is None else 0.0
        self._set_stop(stop)
        for step in range(1, len(self.metrics.losses) + 1):  # before a resume
            self.look_for_stop(step)

    def look_for_stop(self, step: int) -> None:
        """Decide whether the training ends after ``step``, from losses that all processes have."""
        if self._stop_loss and self.stop is None:
            losses = self.metrics.losses[:step]
            self._set_stop(stop_after(losses, self._stop_loss, self.plan.steps))

    def _set_stop(self, stop: Stop | None) -> None:
        if stop is not None:
            self.stop = stop
            self.metrics.shorten(self.plan.work(stop.end))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate: a cosine, and after a stop a linear decay on top."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)

        def stopped(factor: Callable[[int], float], step: int) -> float:
            return factor(step) * (1.0 if self.stop is None else self.stop.factor(step))

        scheduler.lr_lambdas = [partial(stopped, factor) for factor in scheduler.lr_lambdas]
        return scheduler

    # computation of a step

    def _get_train_sampler(self, train_dataset: Any = None) -> list[int]:
        lengths = [len(example.input_ids) for example in self.plan.train_examples]
        return sample_order(lengths, self.plan.train)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward pass of a micro-batch, with deterministic algorithms if the GPU has them."""
        with deterministic_algorithms(self._deterministic):
            return super().training_step(*args, **kwargs)

    def _probe_step(self) -> None:
        # run a training step on the ends of two pairs, of different lengths, and clear the gradients
        rows = to_dataset(self.plan.train_examples[:2])
        ends = [
            {key: values[-length:] for key, values in row.items()}
            for row, length in zip(rows, _PROBE_TOKENS, strict=False)
        ]
        try:
            self._pass(ends)
        finally:
            self.model.zero_grad(set_to_none=True)

    def _pass(self, rows: list[Any]) -> None:
        inputs = self._prepare_inputs(self.data_collator(rows))
        summed_nll(self.model.train(), inputs).backward()

    def _largest_batch_fits(self) -> bool:
        # whether this GPU has the memory for a pass over the largest micro-batch, with the optimizer's states. Memory
        # then runs out before the first step and not after hours; the gradients are cleared.
        size = self.args.per_device_train_batch_size
        order = [self.plan.train_examples[index] for index in self._get_train_sampler()]
        batches = (order[first : first + size] for first in range(0, len(order), size))

        def area(batch: list[Any]) -> tuple[int, int]:
            longest = max(len(example.input_ids) for example in batch)
            return len(batch) * longest, sum(sum(each.supervised) for each in batch)

        largest = max(batches, key=area)
        if self.args.gradient_checkpointing:
            renamed = hasattr(self.model, "activation_checkpointing_enable")  # transformers 5.24
            enable = f"{'activation' if renamed else 'gradient'}_checkpointing_enable"
            getattr(self.model, enable)(self.args.gradient_checkpointing_kwargs or None)
        reserved: list[torch.Tensor] = []
        try:
            if self.plan.train.optimizer == "adamw":
                reserved = [
                    torch.empty(2, *value.shape, device=value.device)
                    for value in self.model.parameters()
                    if value.requires_grad
                ]
            with deterministic_algorithms(self._deterministic):
                self._pass(list(to_dataset(largest)))
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            return False
        finally:
            reserved.clear()
            self.model.zero_grad(set_to_none=True)
        return True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Summed NLL of the micro-batch divided by the supervised tokens of the optimizer step.

        Dropout depends only on the seed, the step and the index of the micro-batch, so that it is the same after a
        resume and for any number of devices.
        """
        place = self._micro_batches * self.args.world_size + self.args.process_index
        rng = random.Random(f"{self.plan.train.seed}/{self.state.global_step}/{place}")
        torch.manual_seed(rng.getrandbits(62))
        self._micro_batches += 1
        loss = summed_nll(model, inputs) / num_items_in_batch
        counted = torch.stack((loss.detach().double(), inputs["attention_mask"].sum().double()))
        self._counted = counted if self._counted is None else self._counted + counted
        return loss * self.args.world_size  # gradients are averaged over the processes

    def _clip_grad_norm(self, model: Any) -> Any:
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer.optimizer)  # accelerate unscales under autocast only
        norm = self._grad_norm = unshard(super()._clip_grad_norm(model))
        return norm

    def begin_step(self) -> None:
        """Reset the counters of the optimizer step."""
        self._counted: torch.Tensor | None = None  # loss and tokens, float64 on the device
        self._grad_norm: torch.Tensor | None = None
        self._micro_batches = 0

    def end_step(self) -> tuple[float, int, float | None]:
        """Loss, non-padding tokens and gradient norm of the optimizer step, over all processes.

        Nothing else in a step reads a value from the device, for which the CPU would wait; in float16 the scaler does,
        once. The norm is None if a float16 gradient overflowed: the scaler skipped the step and halved the scale.
        """
        assert self._counted is not None and self._grad_norm is not None
        summed = self.accelerator.reduce(self._counted, "sum")
        norm = self._grad_norm.detach().to(summed).view(1)
        loss, tokens, norm = torch.cat((summed, norm)).tolist()
        overflowed = self.accelerator.scaler is not None and not math.isfinite(norm)
        return loss, int(tokens), None if overflowed else norm

    def validation_loss(self) -> float:
        """Token-weighted NLL of the validation pairs, in nats per token, in a fixed order of batches.

        With several processes each takes every n-th batch. A process without a batch repeats the last one, because FSDP
        needs all processes, and does not count it.
        """
        examples = sorted(self.plan.validation_examples, key=lambda example: len(example.input_ids))
        rows = to_dataset(examples)
        size = self.args.per_device_train_batch_size
        model = self.model.eval()
        total, tokens = 0.0, 0
        with torch.no_grad():
            for first in range(0, len(rows), size * self.args.world_size):
                own = first + size * self.args.process_index
                at = own if own < len(rows) else (len(rows) - 1) // size * size
                indices = range(at, min(at + size, len(rows)))
                batch = self.data_collator([rows[index] for index in indices])
                nll = summed_nll(model, self._prepare_inputs(batch)).item()
                if at == own:
                    total += nll
                    tokens += len(batch["targets"])
        model.train()
        counted = torch.tensor((total, tokens), dtype=torch.float64, device=self.args.device)
        total, tokens = self.accelerator.reduce(counted, "sum").tolist()
        return total / tokens

    def answer_samples(self) -> list[dict[str, Any]]:
        """The answers of the current weights to the sample questions."""
        if not self.plan.samples:
            return []
        samples = self.plan.samples
        answers = sample_answers(self.model, self._prompter, self.data_collator.padding, samples)
        return [
            {"row": each.row, "question": each.question, "reference": each.reference}
            | {"answer": answer}
            for each, answer in zip(samples, answers, strict=True)
        ]

    # checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        Trainer._save_checkpoint(self, model, trial)  # that of SFTTrainer only adds a model card
        self.accelerator.wait_for_everyone()
        if self.is_main_process:
            checkpoints.mark_complete(checkpoints.checkpoint_folder(self.root, step))
            best = best_step(self.metrics.validation)
            checkpoints.prune_checkpoints(self.root, {step, step if best is None else best})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the unsharded adapters."""
        adapters = unsharded_adapters(self.model) if self._sharded else None
        if self.is_main_process:
            self._save(output_dir, state_dict=adapters)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = unshard(self.optimizer.state_dict())
        if self.is_main_process:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        if is_paged(self.optimizer):
            load_paged_state(self.optimizer, state)
        else:
            self.optimizer.load_state_dict(shard_optimizer_state(state, self.optimizer))
        self.lr_scheduler.load_state_dict(
            torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        for name, value in self.model.named_parameters():
            stored = name.replace(".default.", ".")
            if value.requires_grad and stored in weights:
                weights[stored] = shard_like(weights[stored], value)
        outcome = set_peft_model_state_dict(self.model, weights)
        if outcome.unexpected_keys:
            raise StudyError(
                m("the checkpoint does not match the adapters"),
                where=resume_from_checkpoint,
                remedy=m("{Redo}"),
            )


class _Events(TrainerCallback):
    def __init__(self, trainer: TwinTrainer) -> None:
        self._trainer = trainer
        self._step_started = 0.0
        self._saved = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin_step()
        self._step_started = time.monotonic()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        # count the writes of the optimizer: adapters are cast and rounded again when their version changes. torch's
        # fused AdamW and the optimizers of bitsandbytes do not count them.
        parameters = self._trainer.model.parameters()
        trained = [value for value in parameters if value.requires_grad]
        torch.autograd.graph.increment_version(trained)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        trainer, step = self._trainer, state.global_step
        loss, tokens, norm = trainer.end_step()
        if not math.isfinite(loss):
            raise StudyError(
                m("the training loss is {loss} at step {step}", loss=loss, step=step),
                where=str(trainer.plan.folder),
                remedy=m("Lower {train.learning_rate}, or use {model.compute_dtype=bfloat16}"),
            )
        plan, seconds = trainer.plan, time.monotonic() - self._step_started
        values = {
            "epoch": round(step * plan.train.batch_size / len(plan.train_examples), 4),
            "loss": loss,
            "learning_rate": trainer.lr_scheduler.get_last_lr()[0],
            "grad_norm": norm,
            "memory_bytes": memory_bytes(plan.device),
        }
        eta = trainer.metrics.record_step(step, tokens=tokens, seconds=seconds, values=values)
        trainer.look_for_stop(step)
        end = trainer.end
        if trainer.is_main_process:
            plan.on_step(step, end, eta)
        if step in plan.validations(end):
            trainer.metrics.record_validation(step, trainer.validation_loss())
            if step in plan.samplings(end):
                trainer.metrics.record_samples(step, trainer.answer_samples())
            control.should_save = True
        overdue = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        cancelled, overdue = trainer.broadcast_from_main((plan.cancelled(), overdue))
        control.should_save |= cancelled or overdue
        if control.should_save:
            self._saved = time.monotonic()
        control.should_training_stop = cancelled or step >= end
        return control
