"""Several assistants over as few bases as they need, answering side by side.

Torch is imported when a model is asked for, so that other processes can import the types here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from assistant_builder.inference.session import ProgressCallback, Session, clone_sharing_weights, prepare_for_inference
from assistant_builder.study import Study


class SharedSession(Session):
    """Assistants whose bases are the same, and stored the same way, share one.

    Each is a tree of modules of its own over the shared weights. No adapter is switched on or off, so that all of them
    can answer at the same time and none can be taken for another.

    Args:
        assistants: Id → study and arm.
    """

    def __init__(self, assistants: Mapping[str, tuple[Study, str]]) -> None:
        super().__init__(tuple(assistants), "the server")
        self._assistants = dict(assistants)

    def _load(self, speaker: str, report: ProgressCallback) -> bool:
        if speaker in self._loaded:
            return True
        report("Starting PyTorch", 0.05)
        from assistant_builder.models.chat_template import ChatTokenizer
        from assistant_builder.models.loading import arm_spec, load_adapter, load_base

        specs = {name: arm_spec(study, arm, hold=True) for name, (study, arm) in self._assistants.items()}
        spec = specs[speaker]
        report(f"Reading the {'16-bit' if spec.storage == 'float16' else '4-bit'} base", 0.4)
        base = load_base(spec)
        # all at once: weights that are in order for answering take no further adapter
        models: dict[str, Any] = {}
        prompters: dict[date, ChatTokenizer] = {}
        prompter_of: dict[str, ChatTokenizer] = {}
        for name, (study, arm) in self._assistants.items():
            if specs[name] == spec:
                models[name] = load_adapter(clone_sharing_weights(base), study.arm_folder(arm) / "adapter")
                if (day := study.template_date) not in prompters:
                    prompters[day] = ChatTokenizer.load(spec.folder, day)
                prompter_of[name] = prompters[day]
        del base
        prepare_for_inference(*models.values())
        self._loaded |= {name: (model, prompter_of[name]) for name, model in models.items()}
        return False
