"""The two arms of a study: one config, and one field in which they differ."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from assistant_builder.config import Arm, ModelConfig, StudyConfig, TrainConfig

Storage = Literal["float16", "nf4", "fp4"]


class ArmConfig(BaseModel):
    """Everything that decides what one arm's training does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_storage: Storage = Field(description="How the linear layers of the frozen base are stored.")
    model: ModelConfig
    train: TrainConfig

    @property
    def arm(self) -> Arm:
        """``qlora`` over a 4-bit base, ``lora`` over a float16 one."""
        return "lora" if self.base_storage == "float16" else "qlora"


def twin(config: StudyConfig, seed: int = 1) -> dict[Arm, ArmConfig]:
    """The arms of a study; they differ in ``base_storage`` and in nothing else.

    Args:
        config: The study's config.
        seed: Which of the study's seeds, from 1; the first is ``train.seed``, the second one more.
    """
    train = config.train.model_copy(update={"seed": config.train.seed + seed - 1})
    baseline = ArmConfig(base_storage="float16", model=config.model, train=train)
    return {"lora": baseline, "qlora": baseline.model_copy(update={"base_storage": config.model.quant_type})}
