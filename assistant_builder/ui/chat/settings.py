"""Settings of the chat: system prompt, sampling and modes, which all speakers share.

The browser stores them: the system prompt and whether answers are copied too by study, if they differ from the
study's own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from assistant_builder.arms import ARMS
from assistant_builder.chat.ask import default_system_prompt
from assistant_builder.i18n import t
from assistant_builder.inference.chunks import SEED_LIMIT, Sampling
from assistant_builder.inference.session import BASE
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.ui.refresh import QUIET, Updates, Values, browser_state
from assistant_builder.ui.study_snapshot import recommends_copies

GREEDY = Sampling()
_KEPT_STUDIES = 20  # whose own settings the browser stores
ALL = "all"
"""Value of the choice that shows every assistant."""


@dataclass(frozen=True)
class ReplySettings:
    """The settings on the page; a random seed is not drawn yet.

    ``base`` and ``copied``: the base model and copied answers are asked too.
    ``only`` is the one assistant that is asked and shown; empty: all.
    """

    system: str
    blind: bool
    base: bool
    sampling: Sampling
    only: str = ""
    copied: bool = False

    @property
    def also(self) -> tuple[str, ...]:
        """Speakers that are asked besides the assistants."""
        return (
            *([BASE] if self.base else []),
            *([COPY] if self.copied else []),
        )

    def untrained(self) -> ReplySettings:
        """The settings before the assistants are trained: answers are copied."""
        return replace(self, blind=False, base=False, only="", copied=True)

    def sampling_with_seed(self) -> Sampling:
        """The sampling settings with a seed, so that all speakers share it and it can be stored."""
        if self.sampling.temperature == 0:
            return self.sampling
        return replace(self.sampling, seed=random.randrange(SEED_LIMIT))


class ChatSettings:
    """Components of the settings; the caller places both groups."""

    def __init__(self) -> None:
        self.kept = browser_state("chat-settings", {})

    def modes(self) -> None:
        """Place the switches that are always in view."""
        self.only = gr.Radio(
            [(t("Both"), ALL)],
            value=ALL,
            label=t("Show"),
            show_label=False,
            container=False,
            elem_id="ab-only",
            visible=False,
        )
        self.blind = gr.Checkbox(
            False, label=t("Blind mode"), container=False, elem_id="ab-blind", min_width=120
        )

    def more(self) -> None:
        """Place the other switches, the system prompt and the sampling settings in the open accordion."""
        with gr.Row(elem_classes="ab-modes"):
            self.base = _switch(
                "base", t("Ask the base model too"), t("The same model without training.")
            )
            self.copied = _switch(
                "copied",
                t("Look the answer up too"),
                t("Copied from your data, without a trained model."),
            )
            self.from_memory = _switch(
                "from-memory",
                t("Without looking up"),
                t("Assistants answer from memory, without facts of your data."),
                visible=False,
            )
        self.system = gr.Textbox(
            label=t("System prompt"),
            info=t(
                "Sent before the conversation to all speakers. If empty, the base model's default is used."
            ),
            lines=2,
            max_lines=8,
            elem_id="ab-system",
        )
        self.reset = gr.Button(
            t("Reset to the project's system prompt"), size="sm", elem_id="ab-system-reset"
        )
        with gr.Row():
            self.temperature = gr.Number(
                GREEDY.temperature,
                label=t("Temperature"),
                step=0.1,
                min_width=140,
                info=t("0 means greedy decoding, as in the evaluation."),
                elem_id="ab-temperature",
            )
            self.longest = gr.Number(
                GREEDY.max_new_tokens,
                label=t("Maximum answer length"),
                info=t("In tokens."),
                step=16,
                min_width=140,
            )

    @property
    def inputs(self) -> list[Component]:
        """The components of all settings."""
        return [self.system, *self._stored.values()]

    @property
    def _stored(self) -> dict[str, Component]:
        """Name in the browser's storage → component, without the system prompt, which is stored by study."""
        names = ("temperature longest blind base from_memory only copied").split()
        return {name: getattr(self, name) for name in names}

    def read(self, values: Values) -> ReplySettings:
        """Read the settings from the values of :attr:`inputs`."""
        only = str(values[self.only])
        return ReplySettings(
            system=(values[self.system] or "").strip(),
            blind=bool(values[self.blind]),
            base=bool(values[self.base]),
            sampling=Sampling(
                max_new_tokens=int(_number(values[self.longest], GREEDY.max_new_tokens)),
                temperature=_number(values[self.temperature], GREEDY.temperature),
                look_up=not values[self.from_memory],
            ),
            only=only if only in ARMS else "",
            copied=bool(values[self.copied]),
        )

    def remember(
        self, name: str | None, values: Values, *, copied_chosen: bool = False
    ) -> dict[str, Any]:
        """The new value of the browser's storage: name → value; ``systems`` and ``copies``: study → value.

        ``copied_chosen``: the user clicked the box of copied answers; otherwise its value is no choice.
        """
        stored = {key: values[component] for key, component in self._stored.items()}
        copied, system = stored.pop("copied"), values[self.system] or ""
        systems, copies = (dict(_by_study(values[self.kept], key)) for key in ("systems", "copies"))
        if name:
            _keep(systems, name, system, differs=system.strip() != _own_system(name))
        if name and copied_chosen:
            _keep(copies, name, copied, differs=copied != _own_copied(name))
        return {**stored, "systems": systems, "copies": copies}

    def copied_too(self, name: str | None, kept: Any) -> bool:
        """Whether answers of a study are copied too: what was chosen, else what the report recommends."""
        chosen = _by_study(kept, "copies").get(name or "")
        return chosen if isinstance(chosen, bool) else bool(name) and _own_copied(name or "")

    def restored(self, name: str | None, kept: Any) -> Updates:
        """Component → value for a study, from the browser's storage."""
        arms = Study.open(name).config.arms if name else ()
        stored = kept if isinstance(kept, dict) else {}
        own = _own_system(name) if name else ""
        system = _by_study(kept, "systems").get(name or "", own)
        flags = self.blind, self.base, self.from_memory
        return {
            self.system: system if isinstance(system, str) else own,
            self.temperature: _number(stored.get("temperature"), GREEDY.temperature),
            self.longest: _number(stored.get("longest"), GREEDY.max_new_tokens),
            self.only: next((arm for arm in arms if arm == stored.get("only")), ALL),
            self.copied: self.copied_too(name, kept),
            **{
                component: stored.get(key) is True
                for key, component in self._stored.items()
                if component in flags
            },
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components."""
        quiet, inputs = {**QUIET, "queue": False}, {picker, self.kept, *self.inputs}

        def remember(values: Values) -> dict[str, Any]:
            return self.remember(values[picker], values)

        def remember_copied(values: Values) -> dict[str, Any]:
            return self.remember(values[picker], values, copied_chosen=True)

        self.copied.input(remember_copied, inputs, self.kept, trigger_mode="always_last", **quiet)
        others = [component for component in self.inputs if component is not self.copied]
        gr.on(
            # gradio drops the first input of a text box, which can be a whole text that is pasted
            [*(component.input for component in others), self.system.blur],
            remember,
            inputs,
            self.kept,
            trigger_mode="always_last",
            **quiet,
        )
        self.reset.click(
            lambda name: _own_system(name) if name else "", picker, self.system, **quiet
        ).then(remember, inputs, self.kept, **quiet)


def _switch(name: str, label: str, about: str, *, visible: bool = True) -> gr.Checkbox:
    return gr.Checkbox(
        False, label=label, info=about, elem_id=f"ab-{name}", min_width=200, visible=visible
    )


def _by_study(kept: Any, key: str) -> dict[str, Any]:
    found = kept.get(key) if isinstance(kept, dict) else None
    return found if isinstance(found, dict) else {}


def _keep(kept: dict[str, Any], name: str, value: Any, *, differs: bool) -> None:
    kept.pop(name, None)
    if differs:
        kept[name] = value
    for oldest in list(kept)[:-_KEPT_STUDIES]:
        del kept[oldest]


def _own_system(name: str) -> str:
    return default_system_prompt(Study.open(name))


def _own_copied(name: str) -> bool:
    return recommends_copies(Study.open(name).recommended)


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default
