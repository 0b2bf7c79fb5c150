"""Settings of training: LoRA, optimization and validation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from assistant_builder.config.base import BASIC, ConfigModel
from assistant_builder.i18n import N_, m

QAT_TYPES = ("Q4_0", "Q4_1", "Q5_1", "Q8_0", "NF4")
"""Formats through whose rounding an adapter can be trained."""

MICRO_BATCH = 8
"""Most pairs per pass where no plan allows more."""

ASSUMED_LENGTH = 512
"""Tokens of the longest pair before the data are known."""


class TrainConfig(ConfigModel):
    """LoRA and optimization, shared by both arms."""

    preset: Literal["quick", "balanced", "thorough", "by_heart", "custom"] = Field(
        "balanced", title=N_("Preset")
    )
    """A named set of values for epochs, rank, alpha and validations; other settings replace them."""
    rank: int = Field(16, ge=1, le=1024, title=N_("LoRA rank"), json_schema_extra=BASIC)
    """Rank of the adapter matrices, which determines their capacity (QLoRA paper: 64)."""
    alpha: float = Field(32, gt=0, title=N_("LoRA alpha"))
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1, title=N_("LoRA dropout"))
    """Dropout before each adapter (QLoRA paper: 0.05 for 33B and 65B, 0.1 for 7B and 13B)."""
    target_modules: Annotated[str, AfterValidator(str.strip)] = Field(
        "all-linear", min_length=1, title=N_("Adapted layers")
    )
    """'all-linear' (QLoRA paper) or a comma-separated list of module names."""
    epochs: float = Field(3.0, gt=0, le=1000, title=N_("Epochs"), json_schema_extra=BASIC)
    """Passes over the training pairs. Too few give vague answers, too many give overfitting."""
    max_steps: int | None = Field(None, ge=1, title=N_("Maximum steps"))
    """Empty: limited by epochs only."""
    learning_rate: float = Field(
        5e-4, gt=0, le=1, title=N_("Learning rate"), json_schema_extra=BASIC
    )
    """Peak learning rate of AdamW."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1, title=N_("Warm-up"))
    """Share of the steps over which the learning rate rises; it then falls along a cosine."""
    weight_decay: float = Field(0.0, ge=0, title=N_("Weight decay"))
    """AdamW weight decay."""
    max_grad_norm: float = Field(1.0, gt=0, title=N_("Gradient clipping"))
    """Maximum norm of the gradient."""
    batch_size: int = Field(16, ge=1, title=N_("Batch size"), json_schema_extra=BASIC)
    """Pairs per optimizer step (the effective batch)."""
    micro_batch_size: int | None = Field(None, ge=1, title=N_("Micro-batch size"))
    """Pairs per forward and backward pass; gradients are accumulated over batch_size / micro_batch_size passes. Empty:
    at most 8, and on a GPU as many as its memory allows."""
    max_length: Annotated[int, Field(ge=32)] | Literal["auto"] = Field(
        "auto", title=N_("Longest pair"), json_schema_extra=BASIC
    )
    """Most tokens of a pair with the facts in its prompt. Longer ones lose facts, the farthest first, and are left out
    if they are still too long; an answer is never cut. auto: as many as the longest pair has, at most the context of
    the base model."""
    optimizer: Literal["adamw", "paged_adamw_32bit", "paged_adamw_8bit"] = Field(
        "adamw", title=N_("Optimizer")
    )
    """Paged optimizers move their state to main memory when GPU memory is full (QLoRA paper). They need CUDA."""
    kernels: Literal["fused", "plain"] = Field("fused", title=N_("GPU kernels"))
    """fused: adapters of layers with a common input are computed together. plain: PyTorch and transformers alone.
    Fused CPU kernels are always used."""
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", title=N_("Gradient checkpointing")
    )
    """Recompute activations in the backward pass, which saves memory and takes a third more computation. auto: only if
    the estimate exceeds the free memory."""
    allow_low_memory: bool = Field(False, title=N_("Start without enough memory"))
    """Start even if the estimate exceeds the memory of this machine; training may then be very slow, or the operating
    system may end it."""
    evaluations: int = Field(4, ge=1, le=1000, title=N_("Validations"))
    """Number of evenly spaced validations in a run; a checkpoint is saved at each."""
    sample_answers: int = Field(3, ge=0, le=20, title=N_("Sample answers"))
    """Validation questions that both assistants answer during training, at up to eight validations; results do not
    depend on them."""
    qat_type: Literal["Q4_0", "Q4_1", "Q5_1", "Q8_0", "NF4"] = Field("Q4_0", title=N_("QAT format"))
    """Format through whose rounding the arm qat is trained: a type of GGUF files, or NF4 with double quantization."""
    stop_loss: float = Field(0.01, ge=0, title=N_("Loss of the stop"))
    """Where facts are looked up, training ends early if nothing is left to learn: once the median training loss of 16
    steps is below this (nats per token), the learning rate falls to zero over half as many steps as were taken. The arm
    that is trained first decides, and the others end at the same step. 0: never."""
    seed: int = Field(0, ge=0, title=N_("Training seed"))
    """Seed of adapter initialization, order and dropout."""

    @property
    def assumed_length(self) -> int:
        """``max_length``, or what is assumed for it before the data are known."""
        return ASSUMED_LENGTH if self.max_length == "auto" else self.max_length

    @property
    def micro_batch(self) -> int:
        """Pairs per pass on one device, unless the plan of a GPU allows more."""
        if self.micro_batch_size is not None:
            return min(self.micro_batch_size, self.batch_size)
        return max(rows for rows in range(1, MICRO_BATCH + 1) if self.batch_size % rows == 0)

    @model_validator(mode="after")
    def _check_batch_size(self) -> TrainConfig:
        if self.batch_size % self.micro_batch:
            raise ValueError(
                m(
                    "batch_size ({batch_size}) must be a multiple of micro_batch_size ({micro_batch_size})",
                    batch_size=self.batch_size,
                    micro_batch_size=self.micro_batch_size,
                )
            )
        return self
