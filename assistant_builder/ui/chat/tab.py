"""The Chat tab: one question box, and a pane for each speaker whose replies the worker process generates."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.arms import plain
from assistant_builder.chat.ask import default_system_prompt
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import Choice, Conversation
from assistant_builder.chat.feedback import (
    add_correction,
    corrections_asked_again,
    save_asked_again,
)
from assistant_builder.data import load_split
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, t
from assistant_builder.inference.session import BASE, SHIPPED
from assistant_builder.study import Study
from assistant_builder.ui.chat.conversation import ConversationPanel, editing_notice, gradio_error
from assistant_builder.ui.chat.feedback import Corrections, VoteBar, heldout_note
from assistant_builder.ui.chat.settings import ALL, GREEDY, ChatSettings, ReplySettings
from assistant_builder.ui.chat.view import (
    PaneState,
    asked_again_view,
    example_questions,
    examples_view,
    loading_view,
    sides,
)
from assistant_builder.ui.html import empty, pop_up_titles
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import needs_study, shown_arms
from assistant_builder.ui.train.actions import studies_ahead

EMPTY = N_("You can chat with the trained assistants here.")
_ON_CHAT = "(...all) => [new URL(window.location).searchParams.get('tab') === 'chat' ? all[0] : null, ...all.slice(1)]"
"""Passes no study name while another tab is open, so that no model is loaded for a hidden chat."""
_UNTRAINED = "nobody"


class ChatTab:
    """Components of the tab; the caller has opened the ``gr.Tab``. The pool owns the worker process."""

    def __init__(self, pool: WorkerPool) -> None:
        self.mark = gr.Textbox("", visible=False)
        self.settings = ChatSettings()
        self.empty = gr.HTML(needs_study(t(EMPTY)))
        with gr.Column(visible=False, elem_id="ab-chat") as self.body:
            with gr.Row(elem_classes="ab-modes"):
                self.settings.modes()
                self.ready = gr.HTML(elem_id="ab-ready")
            options = gr.Accordion(t("Options"), open=False, elem_id="ab-chat-options")
            self.corrections = Corrections()
            self.asked_again = gr.HTML(elem_id="ab-asked-again")
            panes_here = gr.Column()
            self.votes = VoteBar()
            self.talk = ConversationPanel(pool, self.votes)
            with panes_here:
                self.talk.place_panes()
            self.talk.place_box()
            with options:
                self.settings.more()
                self.talk.place_downloads()

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            LiveRegion("chat-empty", [self.empty], _trained_mark, self._draw_empty),
            LiveRegion("chat-mark", [self.mark], _trained_mark, lambda view: [_trained_mark(view)]),
            LiveRegion(
                "chat-examples",
                [self.talk.examples],
                lambda view: view.stamp("data/status.json"),
                lambda view: [gr.update(value=examples_view(_examples(view.study)))],
            ),
            LiveRegion(
                "chat-report",
                self.votes.tally_outputs,
                lambda view: view.stamp("report.json"),
                lambda view: self.votes.tally_values(
                    view.study if view.trained else None, blind=False
                ),
            ),
        ]

    def _draw_empty(self, view: StudyView) -> Sequence[Any]:
        if view.study is None:
            shown = needs_study(t(EMPTY))
        else:
            shown = empty(
                t("No trained assistants yet"),
                t(
                    "Train the project on the Train tab. Its assistants then answer here side by side."
                ),
            )
        return [gr.update(value=shown, visible=not view.trained)]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; see :class:`~assistant_builder.ui.tabs.TabContent`."""
        talk, options = self.talk, self.settings.inputs
        talk.kept.render()
        self.settings.kept.render()
        now = [picker, self.mark, talk.kept, *options]
        asked = [talk.kept, *talk.outputs, talk.question, talk.editing, talk.banner]
        gr.on(
            [talk.send.click, talk.question.submit],
            self._ask,
            [talk.question, talk.editing, *now],
            asked,
            concurrency_limit=None,
            **QUIET,
        )
        talk.again.click(self._again, now, asked, concurrency_limit=None, **QUIET)
        talk.stop.click(talk.stop_replies, None, None, **QUIET)
        talk.clear.click(user_facing_errors(self._clear), now, asked, **QUIET)
        talk.examples.click(self._ask_example, now, asked, concurrency_limit=None, **QUIET)
        talk.leave.click(
            lambda: ["", None, gr.update(visible=False)], None, asked[-3:], queue=False, **QUIET
        )
        for choice, button in self.votes.buttons.items():
            button.click(
                user_facing_errors(functools.partial(self._vote, choice)),
                now,
                [talk.kept, *talk.outputs, *self.votes.tally_outputs],
                **QUIET,
            )
        for shown in talk.panes.values():
            shown.click(
                user_facing_errors(self._pane_clicked),
                now,
                [
                    talk.question,
                    talk.editing,
                    talk.banner,
                    talk.notice,
                    *talk.outputs,
                    *self.corrections.list_outputs,
                    self.corrections.name,
                ],
                **QUIET,
            )
        modes = [
            self.settings.blind,
            self.settings.base,
            self.settings.shipped,
            self.settings.only,
            self.settings.figures,
        ]
        gr.on(
            [mode.input for mode in modes],
            user_facing_errors(self._redraw),
            now,
            talk.outputs,
            **QUIET,
        )
        loading = [picker, self.settings.base, self.settings.shipped, self.settings.only]
        self.mark.change(
            user_facing_errors(self._restore),
            [self.mark, talk.kept, self.settings.kept],
            [
                *options,
                *talk.outputs,
                talk.editing,
                talk.banner,
                self.ready,
                self.asked_again,
                *self.votes.tally_outputs,
                *self.corrections.list_outputs,
                self.corrections.name,
                self.body,
            ],
            **QUIET,
        ).then(
            self._load_models,
            loading,
            self.ready,
            js=_ON_CHAT,
            concurrency_limit=None,
            **QUIET,
        ).then(
            self._ask_again,
            [picker, self.mark],
            self.asked_again,
            js=_ON_CHAT,
            concurrency_limit=None,
            **QUIET,
        )
        opened = next(tab for tab in tabs.children if getattr(tab, "id", None) == "chat")
        gr.on(
            [opened.select, self.settings.base.input, self.settings.shipped.input],
            self._load_models,
            loading,
            self.ready,
            concurrency_limit=None,
            **QUIET,
        )
        opened.select(
            self._ask_again, [picker, self.mark], self.asked_again, concurrency_limit=None, **QUIET
        )
        self.settings.wire(picker)
        self.votes.wire(picker)
        self.corrections.wire(picker, tabs)

    def _ask(
        self,
        question: str,
        editing: int | None,
        name: str | None,
        mark: str,
        kept: Any,
        request: gr.Request,
        *shown: Any,
    ) -> Iterator[list[Any]]:
        session = request.session_hash or ""
        if not question.strip() or self.talk.busy(session):
            return
        conversation = self.talk.conversation(kept, name, mark)
        if editing is not None:
            conversation = conversation.before(editing)
        boxes = [["", None, gr.update(visible=False)]]
        try:
            settings = self._settings(name, shown)
            for values in self.talk.ask(
                name or "", mark, kept, conversation, question.strip(), settings, session
            ):
                yield [*values, *(boxes.pop() if boxes else [gr.skip()] * 3)]
        except AssistantBuilderError as error:
            raise gradio_error(error) from error

    def _again(
        self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any
    ) -> Iterator[list[Any]]:
        turns = self.talk.conversation(kept, name, mark).turns
        if turns:
            yield from self._ask(
                turns[-1].question, len(turns) - 1, name, mark, kept, request, *shown
            )

    def _clear(self, name: str | None, mark: str, kept: Any, *shown: Any) -> list[Any]:
        drawn = self.talk.values(
            Study.open(name or "").recommended, Conversation(), self._settings(name, shown)
        )
        return [
            self.talk.stored_with(kept, name or "", mark, Conversation()),
            *drawn,
            "",
            None,
            gr.update(visible=False),
        ]

    def _ask_example(
        self,
        name: str | None,
        mark: str,
        kept: Any,
        request: gr.Request,
        event: gr.EventData,
        *shown: Any,
    ) -> Iterator[list[Any]]:
        questions, place = _examples(Study.open(name or "")), event.turn
        if isinstance(place, int) and 0 <= place < len(questions):
            yield from self._ask(questions[place], None, name, mark, kept, request, *shown)

    def _vote(
        self, choice: Choice, name: str | None, mark: str, kept: Any, *shown: Any
    ) -> list[Any]:
        settings = self._settings(name, shown)
        values = self.talk.vote(choice, name or "", mark, kept, settings)
        return [
            *values,
            *self.votes.tally_values(Study.open(name or "").recommended, blind=settings.blind),
        ]

    def _pane_clicked(
        self,
        name: str | None,
        mark: str,
        kept: Any,
        request: gr.Request,
        event: gr.EventData,
        *shown: Any,
    ) -> list[Any]:
        """Handle a click in a pane: edit a question, or open, close or save the correction of an answer."""
        talk, lists = self.talk, [gr.skip()] * (len(self.corrections.list_outputs) + 1)
        nothing = [*[gr.skip()] * (4 + len(talk.outputs)), *lists]
        conversation = talk.conversation(kept, name, mark)
        place, side = event.turn, event.side
        if (
            not isinstance(place, int)
            or not 0 <= place < len(conversation.turns)
            or side not in sides()
            or talk.busy(request.session_hash or "")
        ):
            return nothing
        turn = conversation.turns[place]
        if event.action == "edit":
            return [
                turn.question,
                place,
                gr.update(visible=True),
                editing_notice(place, conversation),
                *nothing[4:],
            ]
        study, settings = Study.open(name or "").recommended, self._settings(name, shown)
        speaker = PaneState(conversation, settings.blind, arms=study.config.arms).speaker(
            side, turn
        )
        if speaker not in turn.answers or (turn.hidden and place == len(conversation.turns) - 1):
            return nothing
        editing, note = None, ""
        if event.action == "correct":
            editing, note = (place, speaker), heldout_note(study, turn.question)
        if event.action == "save":
            question, answer = str(event.question), str(event.answer)
            add_correction(
                study,
                question,
                answer,
                wrong=turn.answers[speaker].text,
                arm=speaker,
                asked=turn.question,
            )
            lists = [*self.corrections.drawn(study), self.corrections.proposed_name(study)]
            gr.Info(
                t("Saved. When you have corrected what you want, retrain under “Corrections”."),
                title=pop_up_titles()["info"],
            )
        drawn = talk.values(study, conversation, settings, editing=editing, note=note)
        return [*nothing[:4], *drawn, *lists]

    def _redraw(
        self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any
    ) -> list[Any]:
        if not name or self.talk.busy(request.session_hash or ""):
            return [gr.skip()] * len(self.talk.outputs)
        conversation = self.talk.conversation(kept, name, mark)
        return self.talk.values(
            Study.open(name).recommended, conversation, self._settings(name, shown)
        )

    def _settings(self, name: str | None, shown: tuple[Any, ...]) -> ReplySettings:
        """Settings of the reply; blind mode needs two trained arms, and looking up a grounded study."""
        settings = self.settings.read(shown)
        if not name:
            return settings
        config = Study.open(name).recommended.config
        sampling = (
            settings.sampling if config.grounded else replace(settings.sampling, look_up=True)
        )
        return replace(settings, blind=settings.blind and config.compares, sampling=sampling)

    def _restore(self, mark: str, kept: Any, kept_settings: Any) -> list[Any]:
        """Restore the browser's state for the study of this mark; the picker may not show its name yet.

        The tab becomes visible here and not earlier, because input before this would be overwritten.
        """
        name, _, trained = mark.partition(":")
        study = None if trained == _UNTRAINED else Study.open(name).recommended
        own = study.name if study else None
        shown = self.settings.restored(own, kept_settings)
        try:
            settings = self._settings(own, tuple(shown))
        except AssistantBuilderError:  # the stored settings are not valid
            shown = self.settings.restored(own, {})
            settings = self._settings(own, tuple(shown))
        conversation = self.talk.conversation(kept, name, mark)
        arms = shown_arms(study.config) if study else ()
        updates = {
            self.settings.only: gr.update(
                value=settings.only or ALL,
                visible=len(arms) > 1,
                choices=[
                    (t("Both") if len(arms) == 2 else t("All"), ALL),
                    *((plain(arm), arm) for arm in arms),
                ],
            ),
            self.settings.blind: gr.update(
                value=settings.blind, visible=study is None or study.config.compares
            ),
            self.settings.from_memory: gr.update(
                value=not settings.sampling.look_up,
                visible=study is not None and study.config.grounded,
            ),
        }
        shown = [
            updates.get(component, value)
            for component, value in zip(self.settings.inputs, shown, strict=True)
        ]
        return [
            *shown,
            *self.talk.values(study, conversation, settings),
            None,
            gr.update(visible=False),
            "",
            "",
            *self.votes.tally_values(study, blind=settings.blind),
            *self.corrections.drawn(study, opened=False),
            self.corrections.proposed_name(study),
            gr.update(visible=study is not None),
        ]

    def _load_models(self, name: str | None, base: bool, shipped: bool, only: str) -> Iterator[Any]:
        """Load the models before the first question if no run needs the machine."""
        try:
            study = Study.open(name).recommended if name else None
            if study is None or study.state == "running" or self.talk.pool.busy:
                return
            arms = shown_arms(study.config)
            adapters = (
                study.arm_folder(arm) / "adapter" / "adapter_model.safetensors" for arm in arms
            )
            if not all(path.is_file() for path in adapters) or studies_ahead(
                study
            ):  # a run plans with the memory
                return
            asked = [only] if only in arms else arms
            for replies in self.talk.pool.worker(study).load(
                [*asked, *([SHIPPED] if shipped else []), *([BASE] if base else [])]
            ):
                self.talk.note_memory(study.name, replies)
                yield loading_view(replies, [only] if only in arms else study.config.arms)
        except AssistantBuilderError as error:
            raise gradio_error(error) from error

    def _ask_again(self, name: str | None, mark: str) -> Iterator[Any]:
        """Ask the questions of the corrections that the study was retrained on, once for its adapters."""
        try:
            study = (
                Study.open(name).recommended if name and mark.partition(":")[0] == name else None
            )
            if study is None or mark.endswith(_UNTRAINED):
                return
            found, arms = corrections_asked_again(study, mark), shown_arms(study.config)
            system = default_system_prompt(study) if found else ""
            for place, one in enumerate(found):
                if one.after is None and study.state != "running":
                    yield asked_again_view(
                        found,
                        t(
                            "Your corrections: asking {place} of {total} again…",
                            place=place + 1,
                            total=len(found),
                        ),
                    )
                    arm = one.correction.arm if one.correction.arm in arms else arms[0]
                    sent = Conversation().messages(
                        arm, one.correction.question, system=system, alone=True
                    )
                    *_, last = self.talk.pool.worker(study).ask({arm: sent}, GREEDY)
                    if last[arm].state not in ("stop", "length"):
                        break
                    found[place] = replace(one, after=last[arm].text.strip())
                    save_asked_again(study, mark, found)
            yield asked_again_view(found)
        except AssistantBuilderError as error:
            raise gradio_error(error) from error


def _examples(study: Study | None) -> list[str]:
    """Example questions of a study; empty before its data are split."""
    if study is None or study.step("data").state != "succeeded":
        return []
    return _examples_of(study.folder / "data", study.split_file("train").stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _examples_of(folder: Path, changed: int) -> list[str]:
    """Example questions of a data folder; ``changed`` identifies its files."""
    return example_questions(load_split(folder, "train"), load_split(folder, "validation"))


def _trained_mark(view: StudyView) -> str:
    """Identifies the study's adapters."""
    if view.study is None or not view.trained:
        return f"{view.name}:{_UNTRAINED}"
    return view.stamp(
        *(view.study.arm_folder(arm) / "summary.json" for arm in shown_arms(view.study.config))
    )
