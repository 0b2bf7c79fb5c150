"""The Chat tab: one question box over two panes, both assistants answering at once, each from the worker process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from assistant_builder.chat.asking import default_system
from assistant_builder.chat.client import Exchange, Reply, WorkerPool
from assistant_builder.chat.session import Sampling
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.files import read_jsonl
from assistant_builder.study import Study
from assistant_builder.ui.markup import Markup, cut, empty, toast
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import SHOWN_ARMS, both_trained, stamp
from assistant_builder.ui.views.chat import pane, reference_note, suggestions
from assistant_builder.ui.views.study import needs_study

Talk = dict[str, list[Message]]
EMPTY = "Here you talk to both trained assistants."
GREEDY = Sampling()


def no_talk() -> Talk:
    """A conversation with both arms that has not begun."""
    return {arm: [] for arm in SHOWN_ARMS}


class ChatTab:
    """Components of the tab; the caller has opened the ``gr.Tab``.

    Args:
        pool: Holds the worker process.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._under_way: dict[str, Exchange] = {}
        self.talk = gr.State(no_talk())
        self.empty = gr.HTML(needs_study(EMPTY))
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_classes="ab-panes"):
                self.panes = {
                    arm: gr.HTML(pane(arm, []), elem_id=f"ab-pane-{arm}", min_width=300) for arm in SHOWN_ARMS
                }
            with gr.Row(elem_classes="ab-ask"):
                self.question = gr.Textbox(
                    label="Your question", placeholder="Ask both assistants…", lines=2, max_lines=6, scale=8,
                    submit_btn=False, elem_id="ab-question", max_length=20_000,
                )
                with gr.Column(scale=1, min_width=120):
                    self.send = gr.Button("Ask both", variant="primary", elem_id="ab-send")
                    self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="ab-stop")
            self.suggested = gr.Dropdown(
                [], label="Held-out questions to try", info="Neither assistant was trained on their wording.",
                interactive=True, visible=False, elem_id="ab-suggested",
            )
            self.reference = gr.HTML()
            with gr.Row(elem_classes="ab-actions"):
                self.clear = gr.Button("Clear the conversation", size="sm")
            self._sampling()

    def _sampling(self) -> None:
        with gr.Accordion("System prompt and decoding", open=False):
            self.system = gr.Textbox(
                label="System prompt", info="Put before the conversation. Empty: the base model's own default.", lines=2
            )
            with gr.Row():
                self.temperature = gr.Number(
                    GREEDY.temperature, label="Temperature", step=0.1, min_width=140,
                    info="0: always the likeliest token, as in the evaluation.",
                )
                self.top_p = gr.Number(
                    GREEDY.top_p, label="Top-p", info="Counts above temperature 0.", step=0.05, min_width=140
                )
                self.longest = gr.Number(
                    GREEDY.max_new_tokens, label="Longest answer", info="Tokens.", step=16, min_width=140
                )

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [
            Section("chat-body", [self.empty, self.body], _trained_mark, self._draw_body),
            Section("chat-talk", [self.talk, *self.panes.values(), self.reference, self.system], _trained_mark,
                    self._draw_talk),
            Section("chat-suggested", [self.suggested], _evaluated_mark, self._draw_suggested),
        ]

    def _draw_body(self, look: Look) -> Sequence[Any]:
        if look.study is None:
            shown = needs_study(EMPTY)
        else:
            shown = empty("Nobody to talk to yet", "Train both assistants on the Train tab. As soon as they are "
                          "trained, they answer here side by side.")
        trained = _trained(look)
        return [gr.update(value=shown, visible=not trained), gr.update(visible=trained)]

    def _draw_talk(self, look: Look) -> Sequence[Any]:
        system = default_system(look.study) if look.study and _trained(look) else ""
        return [no_talk(), *(pane(arm, []) for arm in SHOWN_ARMS), "", system]

    def _draw_suggested(self, look: Look) -> Sequence[Any]:
        offered = [(cut(question, 140), question) for question, _ in _suggestions(look.study)]
        return [gr.update(choices=offered, value=None, visible=bool(offered))]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        panes = list(self.panes.values())
        gr.on(
            [self.send.click, self.question.submit], self._ask,
            [picker, self.question, self.talk, self.system, self.temperature, self.top_p, self.longest],
            [self.talk, *panes, self.question, self.send, self.stop], show_progress="hidden",
            concurrency_limit=None, api_visibility="private",
        )
        self.stop.click(self._stop, None, None, show_progress="hidden", api_visibility="private")
        self.clear.click(
            self._clear, None, [self.talk, *panes, self.reference, self.suggested], show_progress="hidden",
            api_visibility="private",
        )
        self.suggested.input(
            told(self._suggest), [picker, self.suggested], [self.question, self.reference], show_progress="hidden",
            api_visibility="private",
        )

    def _ask(
        self, name: str | None, question: str, talk: Talk, system: str, temperature: float, top_p: float,
        longest: float, request: gr.Request,
    ) -> Iterator[list[Any]]:
        if not question.strip():
            return
        asked = {arm: [*talk[arm], Message("user", question.strip())] for arm in SHOWN_ARMS}
        before = [Message("system", system.strip())] if system.strip() else []
        try:
            exchange = self._pool.worker(Study.open(name or "")).ask(
                {arm: [*before, *messages] for arm, messages in asked.items()}, _sampling(temperature, top_p, longest)
            )
        except AssistantBuilderError as error:
            raise gr.Error(toast(error.what, error.remedy), print_exception=False) from error
        self._under_way[request.session_hash or ""] = exchange
        replies: dict[str, Reply] = {}
        first = [gr.skip(), *_drawn(asked, {arm: Reply() for arm in SHOWN_ARMS}), "", *_buttons(busy=True)]
        try:
            for replies in itertools.chain(exchange):
                yield [*first[:1], *_drawn(asked, replies), *first[3:]]
                first[3:] = [gr.skip()] * 3
        finally:
            self._under_way.pop(request.session_hash or "", None)
        yield [_after(talk, asked, replies), *_drawn(asked, replies), gr.skip(), *_buttons(busy=False)]

    def _stop(self, request: gr.Request) -> None:
        exchange = self._under_way.get(request.session_hash or "")
        if exchange is not None:
            exchange.stop()

    def _clear(self, request: gr.Request) -> list[Any]:
        self._stop(request)
        return [no_talk(), *(pane(arm, []) for arm in SHOWN_ARMS), "", None]

    def _suggest(self, name: str | None, question: str | None) -> list[Any]:
        if not question:
            return [gr.skip(), ""]
        references = dict(_suggestions(Study.open(name or "")))
        return [question, reference_note(question, references.get(question, ""))]


def _sampling(temperature: float | None, top_p: float | None, longest: float | None) -> Sampling:
    return Sampling(
        max_new_tokens=int(GREEDY.max_new_tokens if longest is None else longest),
        temperature=GREEDY.temperature if temperature is None else float(temperature),
        top_p=GREEDY.top_p if top_p is None else float(top_p),
    )


def _drawn(asked: Talk, replies: dict[str, Reply]) -> list[Markup]:
    return [pane(arm, asked[arm], replies.get(arm)) for arm in SHOWN_ARMS]


def _buttons(*, busy: bool) -> list[Any]:
    return [gr.update(interactive=not busy), gr.update(interactive=busy)]


def _after(talk: Talk, asked: Talk, replies: dict[str, Reply]) -> Talk:
    """The conversations to go on from; a question that got no answer is not part of them."""
    return {
        arm: [*asked[arm], Message("assistant", replies[arm].text)] if replies[arm].text else talk[arm] for arm in talk
    }


def _suggestions(study: Study | None) -> list[tuple[str, str]]:
    """From the scored held-out items, so that nothing reads the held-out file before the evaluation has."""
    if study is None or study.step("evaluate").state != "succeeded":
        return []
    return suggestions(read_jsonl(study.cell_folder("Q4") / "samples.jsonl"))


def _trained(look: Look) -> bool:
    return look.study is not None and both_trained(look.study)


def _trained_mark(look: Look) -> str:
    """Changes when the adapters do, and with them whom one talks to."""
    if look.study is None or not both_trained(look.study):
        return f"{look.name}:nobody"
    return f"{look.name}:" + stamp(look.study.arm_folder(arm) / "summary.json" for arm in SHOWN_ARMS)


def _evaluated_mark(look: Look) -> str:
    return f"{look.name}:" + (stamp([look.study.status_file("evaluate")]) if look.study else "nothing")
