"""What the chat keeps: settings and conversations in the browser, the key to them at home."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import Answer, Conversation, Turn
from assistant_builder.chat.feedback import (
    read_corrections,
)
from assistant_builder.chat.reply_stream import Reply
from assistant_builder.inference.chunks import Sampling
from assistant_builder.study import Study
from assistant_builder.ui.chat import conversation as chat_conversation
from assistant_builder.ui.chat import settings as chat_settings
from assistant_builder.ui.chat.conversation import KEPT_STUDIES, ConversationPanel
from assistant_builder.ui.chat.feedback import VoteBar
from assistant_builder.ui.chat.settings import ChatSettings, ReplySettings
from assistant_builder.ui.chat.tab import ChatTab, _examples, _trained_mark, can_answer
from assistant_builder.ui.refresh import StudyView, browser_state
from assistant_builder.ui.study_snapshot import answering_arms
from tests.synthetic_study import LARGE, new_study, running, trained, with_data
from tests.ui.blocks import inside_blocks

SHEET = Path(__file__).parents[1] / "retrieval" / "marl_street_baths.csv"


def test_the_browser_keeps_under_one_key_across_starts_and_only_the_owner_reads_it(home):
    one, other = (inside_blocks(lambda: browser_state("talks", {})) for _ in range(2))
    assert one.secret == other.secret and one.storage_key == other.storage_key
    assert stat.S_IMODE((home / "browser.key").stat().st_mode) == 0o600
    assert one.secret not in one.storage_key


def test_servers_with_other_homes_have_other_entries(home, tmp_path, monkeypatch):
    one = inside_blocks(lambda: browser_state("talks", {}))
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "other"))
    assert inside_blocks(lambda: browser_state("talks", {})).storage_key != one.storage_key


def placed_settings() -> ChatSettings:
    settings = ChatSettings()
    settings.modes()
    settings.more()
    return settings


def test_settings_come_back_as_they_were_and_the_system_prompt_by_study():
    settings = inside_blocks(placed_settings)
    name, other = (with_data(new_study(wish, LARGE)).name for wish in ("one", "two"))
    own = "You answer questions about Ostrel Sound Ferries."
    start = set_to(settings, system=own, temperature=0.0, longest=256)
    assert settings.restored(name, None) == start
    values = set_to(
        settings,
        system="Be brief.",
        temperature=0.7,
        longest=100,
        blind=True,
        base=True,
        from_memory=True,
        only="qlora",
    )
    kept = settings.remember(name, {**values, settings.kept: None})
    assert settings.restored(name, kept) == values
    assert settings.restored(other, kept)[settings.system] == own
    back = settings.remember(name, {**values, settings.system: own, settings.kept: kept})
    assert back["systems"] == {}
    assert settings.read(values) == ReplySettings(
        "Be brief.", True, True, Sampling(100, 0.7, look_up=False), "qlora"
    )


@pytest.mark.parametrize(
    "kept",
    [
        7,
        {"temperature": "hot", "systems": 3, "blind": "yes"},
        {"systems": {"one": 4}},
        {"only": ["x"]},
    ],
)
def test_what_the_browser_sends_may_be_anything(kept):
    settings = inside_blocks(placed_settings)
    name = with_data(new_study("one", LARGE)).name
    values = settings.restored(name, kept)
    assert settings.read(values).sampling == Sampling() and values[settings.blind] is False
    assert settings.remember(None, {**values, settings.kept: kept})["blind"] is False


def set_to(settings: ChatSettings, **changes: Any) -> dict[Any, Any]:
    """Component → value of greedy settings of nine tokens, with changes by name."""
    names = ("system temperature longest blind base from_memory only copied").split()
    start = ("", 0, 9, False, False, False, "all", False)
    values = {**dict(zip(names, start, strict=True)), **changes}
    return {getattr(settings, name): value for name, value in values.items()}


def test_a_seed_is_drawn_where_something_is_drawn():
    settings = inside_blocks(placed_settings)
    assert settings.read(set_to(settings)).sampling_with_seed() == Sampling(9)
    assert (
        len(
            {
                settings.read(set_to(settings, temperature=0.5)).sampling_with_seed().seed
                for _ in range(3)
            }
        )
        > 1
    )


def test_only_a_grounded_study_is_asked_without_looking_up():
    tab = inside_blocks(lambda: ChatTab(WorkerPool()))
    memory, grounded = (
        trained(with_data(new_study(name, LARGE, approaches=[name])))
        for name in ("memory", "grounded")
    )
    values = {**set_to(tab.settings, from_memory=True), tab.settings.kept: None}
    kept = tab.settings.remember(None, values)
    for study, visible in ((memory, False), (grounded, True)):
        shown = tab._restore(f"{study.name}:1", {}, kept)[tab.settings.from_memory]
        assert (shown["visible"], shown["value"]) == (visible, visible)
        settings = tab._settings(study.name, tab.settings.restored(study.name, kept))
        assert settings.sampling.look_up is not visible


def test_an_untrained_study_answers_from_its_data_and_says_that_it_is_not_trained():
    study, pool = new_study(), Answers()
    tab = inside_blocks(lambda: ChatTab(pool))
    view = StudyView(study.name)
    assert can_answer(view) and not can_answer(StudyView(None))
    mark = _trained_mark(view)
    assert mark == "library:untrained"
    tab._prepare(mark)
    assert pool.loaded == [["copy"]], "before the tab is opened"
    running(study, "data")
    tab._prepare(mark)
    assert len(pool.loaded) == 1, "a run needs the machine"
    study.status_file("data").unlink()
    assert "looked up" not in str(tab._draw_empty(view)) and not _is_shown(tab._draw_empty(view))
    (region,) = [each for each in tab.sections() if each.key == "chat-copying"]
    (note,) = region.draw(view).values()
    assert note["visible"] and "Looked up, not trained" in note["value"]
    shown = tab._restore(mark, {}, {})
    assert shown[tab.body]["visible"]
    hidden = (tab.settings.only, tab.settings.blind, tab.settings.base, tab.settings.copied)
    assert not any(shown[box]["visible"] for box in hidden)
    panes = {side: shown[box]["visible"] for side, box in tab.talk.panes.items()}
    assert [side for side, visible in panes.items() if visible] == ["copy"]
    values = {box: shown[box] for box in tab.settings.inputs}
    values = {
        box: each["value"] if isinstance(each, dict) else each for box, each in values.items()
    }
    settings = tab._settings(study.name, values)
    *_, last = tab.talk.ask(study.name, mark, {}, Conversation(), "Where?", settings, "window")
    assert pool.asked == [("copy", "Where?")]
    answer = last[tab.talk.panes["copy"]]["value"]
    assert "By the gate." in answer and "Looked up, not trained" in answer
    assert "Fix the answer" in answer, "it is served at once"
    back = tab.talk.conversation(last[tab.talk.kept], study.name, mark)
    assert back.turns[0].answers["copy"].text == "By the gate."
    trained(with_data(study))
    assert _trained_mark(StudyView(study.name)) != mark
    (note,) = region.draw(StudyView(study.name)).values()
    assert not note["visible"]
    assert answering_arms(study) == ("qlora", "lora")


def test_a_complete_answer_is_kept_while_the_other_assistant_loads():
    study = trained(with_data(new_study()))
    tab = inside_blocks(lambda: ChatTab(Answers()))
    settings = tab._settings(study.name, set_to(tab.settings))
    mark = _trained_mark(StudyView(study.name))
    asked = tab.talk.ask(study.name, mark, {}, Conversation(), "Where?", settings, "window")
    *_, shown = itertools.islice(asked, 3)  # then the page is left
    asked.close()
    (turn,) = tab.talk.conversation(shown[tab.talk.kept], study.name, mark).turns
    assert [answer.text for answer in turn.answers.values()] == ["By the gate."]


def _is_shown(updates: dict[Any, Any]) -> bool:
    (update,) = updates.values()
    return bool(update["visible"])


def test_a_correction_of_a_copied_answer_is_served_and_undone_below_it(monkeypatch):
    monkeypatch.setattr("assistant_builder.ui.chat.tab.inform", lambda text, *_, **__: None)
    study = with_data(new_study())

    def build() -> ChatTab:
        tab = ChatTab(Answers())
        with gr.Tabs() as tabs:
            gr.Tab("chat", id="chat")
        tab.wire(gr.Dropdown(), tabs)
        return tab

    tab = inside_blocks(build)
    held = Conversation((Turn("Where?", {"copy": Answer("By the gate.")}),))
    shown = tab._restore("library:untrained", {}, {})
    values = {box: tab.settings.restored("library", {})[box] for box in tab.settings.inputs}
    kept = tab.talk.stored_with({}, study.name, "library:untrained", held)
    values |= {tab._picker: study.name, tab.mark: "library:untrained", tab.talk.kept: kept}

    def click(action: str, **more: str) -> str:
        sent = {"action": action, "turn": 0, "side": "copy", **more}
        event = gr.EventData(None, sent)
        updates = tab._pane_clicked(values, SimpleNamespace(session_hash="w"), event)
        return updates[tab.talk.panes["copy"]]["value"]

    assert shown[tab.body]["visible"]
    saved = click("save", question="Where?", answer="By the pier.")
    assert "This question is answered so from now on" in saved and 'data-action="undo"' in saved
    assert [each.answer for each in read_corrections(study)] == ["By the pier."]
    assert "Your correction" not in click("undo") and not read_corrections(study)
    click("decline", question="Where?", answer="By the gate.")
    (declined,) = read_corrections(study)
    assert not declined.answerable and declined.answer != "By the gate."


def test_an_untrained_study_offers_questions_of_its_file(monkeypatch):
    study = new_study()
    monkeypatch.setattr(Study, "source", SHEET)
    offered = _examples(study)
    assert len(offered) == 3 and all(question.endswith("?") for question in offered)


def test_copied_answers_stand_beside_those_of_the_assistants():
    settings = inside_blocks(placed_settings)
    assert settings.read(set_to(settings, copied=True)).also == ("copy",)
    assert ReplySettings("", True, True, Sampling(), "lora").untrained().also == ("copy",)


def test_answers_are_copied_too_where_the_report_recommends_it_unless_it_is_switched_off(
    monkeypatch,
):
    one, other = (trained(with_data(new_study(wish, LARGE))).name for wish in ("one", "two"))
    for module in (chat_settings, chat_conversation):
        monkeypatch.setattr(module, "recommends_copies", lambda study: study.name == "one")
    tab = inside_blocks(lambda: ChatTab(WorkerPool()))
    tab._picker, settings = gr.Dropdown(), tab.settings
    shown = tab._restore(f"{one}:1", {}, None)
    assert shown[settings.copied]["value"] is True
    pane = shown[tab.talk.panes["copy"]]
    assert pane["visible"] and "Recommended" in pane["value"]
    assert "Recommended" not in shown[tab.talk.panes["a"]]["value"]
    assert tab._restore(f"{other}:1", {}, None)[settings.copied]["value"] is False

    def chosen(name: str, kept: Any, copied: bool) -> dict[str, Any]:
        values = {**set_to(settings, copied=copied), settings.kept: kept}
        return settings.remember(name, values, copied_chosen=True)

    kept = chosen(other, chosen(one, None, False), True)
    assert kept["copies"] == {one: False, other: True}
    assert not settings.copied_too(one, kept) and settings.copied_too(other, kept)
    assert chosen(one, kept, True)["copies"] == {other: True}
    blind = settings.remember(one, {**set_to(settings, blind=True), settings.kept: None})
    assert blind["copies"] == {} and settings.copied_too(one, blind), "no choice of copies"
    # the report has come since the page was opened
    request = SimpleNamespace(session_hash="window")
    values = {
        **set_to(settings),
        settings.kept: {},
        tab.talk.kept: {},
        tab._picker: one,
        tab.mark: f"{one}:1",
    }
    opened = tab._opened(values, request)
    assert opened[settings.copied] is True and opened[tab.talk.panes["copy"]]["visible"]
    for others in ({settings.kept: kept}, {settings.copied: True}, {tab.mark: f"{other}:1"}):
        assert settings.copied not in tab._opened({**values, **others}, request)


def test_conversations_are_kept_by_study_and_adapters():
    talk = inside_blocks(lambda: ConversationPanel(WorkerPool(), VoteBar()))
    held = Conversation((Turn("Why?", {"lora": Answer("So.")}),))
    kept: Any = None
    for number in range(KEPT_STUDIES + 2):
        kept = talk.stored_with(kept, f"s{number}", "mark", held)
    assert list(kept) == [f"s{number}" for number in range(2, KEPT_STUDIES + 2)]
    assert talk.conversation(kept, "s3", "mark") == held
    assert (
        talk.conversation(kept, "s3", "trained anew")
        == talk.conversation(kept, "s0", "mark")
        == Conversation()
    )
    assert talk.conversation("nonsense", "s3", "mark") == Conversation()
    assert "s3" not in talk.stored_with(kept, "s3", "mark", Conversation())


class Answers:
    """A pool whose worker gives the same answer to every question."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.loaded: list[list[str]] = []
        self.busy = False

    def worker(self, study: Study) -> Answers:
        return self

    def ask(self, sent: dict[str, Any], sampling: Sampling) -> Replies:
        (arm, messages), *others = sent.items()
        self.asked.append((arm, messages[-1].content))
        loading = {other: Reply("loading") for other, _ in others}
        texts = Reply("answering", "By"), Reply("stop", "By the gate. ", 3)
        return Replies([{arm: text, **loading} for text in texts])

    def load(self, arms: list[str]) -> Replies:
        self.loaded.append(arms)
        return Replies([{arm: Reply("loaded") for arm in arms}])


class Replies(list[dict[str, Reply]]):
    """Replies that can be stopped."""

    def stop(self) -> None:
        pass
