"""Trained assistants, loaded to answer: the base of their arm, and their adapter over it.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from dataclasses import replace

from peft import PeftModel

from assistant_builder.errors import ModelError
from assistant_builder.models import loading
from assistant_builder.models.catalog import resolve
from assistant_builder.models.fetching import fetch
from assistant_builder.models.prompts import Prompter
from assistant_builder.models.trust import allows_code
from assistant_builder.study import Study


def load_arm(study: Study, arm: str, *, hold: bool = True) -> tuple[PeftModel, Prompter]:
    """Load a trained assistant for inference.

    Args:
        study: A study with this arm trained.
        arm: ``qlora`` or ``lora``.
        hold: On a CPU, keep the weights in the compute dtype, so that both arms answer at the speed of the arithmetic.

    Raises:
        ModelError: The arm is not trained, or its base cannot be had.
    """
    adapter = study.arm_folder(arm) / "adapter"
    if not adapter.is_dir():
        raise ModelError(f"the {arm} assistant is not trained yet", where=f"study {study.name}",
                         remedy=f"Train it with 'assistant-builder run {study.name}'")
    spec = arm_spec(study, arm, hold=hold)
    return loading.load_adapter(loading.load_base(spec), adapter), Prompter.load(spec.folder, study.template_date)


def arm_spec(study: Study, arm: str, *, hold: bool) -> loading.BaseSpec:
    """The spec of the base that an assistant answers on; equal ones are the same base.

    Args:
        study: The study.
        arm: ``qlora`` or ``lora``.
        hold: See :func:`load_arm`.

    Raises:
        ModelError: The base cannot be had.
    """
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    spec = loading.base_spec(model, folder, "float16" if arm == "lora" else model.quant_type)
    return replace(
        spec, hold=hold and spec.device == "cpu", double_quant=spec.double_quant and spec.storage != "float16"
    )
