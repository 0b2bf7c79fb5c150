"""The process with the models of a server: ``python -m assistant_builder.serving.shared_models MODELS``.

It uses the protocol of :mod:`assistant_builder.chat.answer_server`, with model ids in place of arms. Torch is imported
when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.chat.answer_server import run_models
from assistant_builder.i18n import m
from assistant_builder.inference.session import (
    ProgressCallback,
    Session,
    clone_sharing_weights,
    prepare_for_inference,
)
from assistant_builder.quantization import METHODS
from assistant_builder.study import Study


class SharedSession(Session):
    """A session in which assistants, by id, with the same base in the same storage share its weights.

    Each assistant has its own module tree over the shared weights. No adapter is switched on or off, so that all can
    answer at the same time and none can be mistaken for another.
    """

    def __init__(self, assistants: Mapping[str, tuple[Study, str]]) -> None:
        super().__init__(tuple(assistants), "the server")
        self._assistants = dict(assistants)

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        if speaker in self._loaded:
            return
        report(m("Starting PyTorch"), 0.05)
        from assistant_builder.models.chat_template import ChatTokenizer
        from assistant_builder.models.loading import arm_spec, load_adapter, load_arm, load_base

        study, arm = self._assistants[speaker]
        if ARMS[arm].rounds:  # merged and rounded: it has no base that others could share
            model, prompter = load_arm(study, arm)
            prepare_for_inference(model)
            self._look_up(study, prompter, {speaker: arm})
            self._loaded[speaker] = model, prompter
            return
        specs = {
            name: arm_spec(study, arm, hold=True)
            for name, (study, arm) in self._assistants.items()
            if not ARMS[arm].rounds
        }
        spec = specs[speaker]
        report(m("Reading the {bits_value}-bit base", bits_value=METHODS[spec.storage].bits), 0.4)
        base = load_base(spec)
        # all at once: weights that are prepared for inference accept no further adapter
        models: dict[str, Any] = {}
        prompters: dict[date, ChatTokenizer] = {}
        prompter_of: dict[str, ChatTokenizer] = {}
        for name, (study, arm) in self._assistants.items():
            if specs.get(name) == spec:
                models[name] = load_adapter(
                    clone_sharing_weights(base), study.arm_folder(arm) / "adapter"
                )
                if (day := study.template_date) not in prompters:
                    prompters[day] = ChatTokenizer.load(spec.folder, day)
                prompter_of[name] = prompters[day]
        del base
        prepare_for_inference(*models.values())
        for name in models:
            study, arm = self._assistants[name]
            self._look_up(study, prompter_of[name], {name: arm})
        self._loaded |= {name: (model, prompter_of[name]) for name, model in models.items()}


if __name__ == "__main__":
    run_models(SharedSession)
