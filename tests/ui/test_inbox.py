"""The tab “Inbox”: what it shows, and what its buttons do."""

from types import SimpleNamespace
from typing import Any

import pytest

from assistant_builder.chat.feedback import add_correction, read_corrections
from assistant_builder.chat.inbox import group_by_meaning, read_inbox
from assistant_builder.chat.visitor_log import log_file, opened
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version, publish, read_versions, served_version
from assistant_builder.ui.inbox import tab as tab_module
from assistant_builder.ui.inbox.tab import InboxTab
from assistant_builder.ui.inbox.view import groups_view
from assistant_builder.ui.train import actions
from tests.chat.test_inbox import NOW, encode, keep
from tests.chat.test_watch import keep as keep_answered
from tests.evals.study_compare.scored_studies import each, edit, make
from tests.ui.blocks import in_order, inside_blocks

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A trained study whose visitors asked three times about refunds and once who won."""
    monkeypatch.setattr(tab_module, "group_in_background", lambda root: None)
    tab_module._marks.clear()
    made = make("shop")
    keep(
        made,
        ("Do I get a refund?", "I do not know.", True, None),
        ("How long does a refund take?", "Two years.", False, -1),
        ("do I get a refund", "I do not know.", True, None),
        ("Who won?", "I do not know.", True, None),
        ("Are you open?", "Yes.", False, 1),
    )
    group_by_meaning(made, encode, "topics")
    return made


@pytest.fixture
def tab(study: Study) -> InboxTab:
    return inside_blocks(InboxTab)


def opened_form(tab: InboxTab, key: str) -> list[Any]:
    event = SimpleNamespace(name=key)
    return in_order(tab._open("shop", event), tab._form)


def drawn(tab: InboxTab, study: Study) -> dict[str, Any]:
    """What the region of the versions shows."""
    html, *buttons = in_order(tab._draw_versions(study), tab._version)
    names = ("next", "settings", "open", "publish", "refuse", "undo")
    return {
        "html": html,
        **{name: button for name, button in zip(names, buttons, strict=True) if button["visible"]},
    }


def test_a_flood_of_wordings_is_offered_in_part(tab, study):
    asked = [(f"r-{number}", f"Refund {number}?") for number in range(120)]
    with opened(log_file(study)) as connection:
        connection.executemany(
            "INSERT INTO question (id, time, visitor, model, declined, question, wording) "
            "VALUES (?, 0, '', '', 1, ?, ?)",
            [(id, text, text) for id, text in asked],
        )
        connection.executemany(
            "INSERT INTO wording VALUES (?, 'topics', x'00', 70)", [(text,) for _, text in asked]
        )
    assert len(read_inbox(study, NOW).group("r-0").wordings) == 120
    _, _, _, wordings, *_ = opened_form(tab, "r-0")
    assert len(wordings["choices"]) == 100


def test_an_answer_becomes_a_correction_for_the_chosen_wordings(tab, study):
    form, key, html, wordings, answer, known = opened_form(tab, "q-1")
    assert form["visible"] and key == "q-0"
    assert wordings["choices"] == ["Do I get a refund?", "How long does a refund take?"]
    titles = dict(known["choices"])
    assert answer == "" and all(title.endswith(f" → {text}") for title, text in titles.items())
    assert len(titles) == len(set(titles.values())) > 3, "each answer of the file once"
    values = tab._decide(tab._accept, "shop", key, ["Do I get a refund?"], "Within a week.")
    assert [(one.question, one.answer) for one in read_corrections(study)] == [
        ("Do I get a refund?", "Within a week.")
    ]
    assert "refund" not in values[tab.groups] and not values[tab.form]["visible"], (
        "the group is gone and the form is closed"
    )
    assert drawn(tab, study)["next"]["value"] == "Train the next version with 1 answer"


def test_nothing_of_a_visitor_is_trained_by_one_click(tab, study):
    """A suggestion and many wordings wait in an opened group, and the primary button is pressed."""
    for key in ("q-0", "q-3"):
        form, opened_key, html, wordings, answer, _ = opened_form(tab, key)
        assert wordings["value"] == [] and answer == ""
        with pytest.raises(Exception, match="is empty|no wording"):
            tab._decide(tab._accept, "shop", opened_key, wordings["value"], answer)
    with pytest.raises(Exception, match="no wording"):
        tab._decide(tab._reject, "shop", "q-0", [], "")
    assert read_corrections(study) == []
    assert "Two weeks." in opened_form(tab, "q-0")[2], "the suggestion is shown"


def test_a_question_is_to_be_declined_or_left_for_later(tab, study):
    tab._decide(tab._later, "shop", "q-0", [], "")
    groups = tab._draw_list(study)[tab.groups]
    assert groups.index("Who won?") < groups.index("Do I get a refund?") and "for later" in groups
    tab._decide(tab._reject, "shop", "q-3", [], "")
    (made,) = read_corrections(study)
    assert made.question == "Who won?" and not made.answerable


def test_an_empty_answer_is_refused_and_loses_nothing(tab, study):
    with pytest.raises(Exception, match="empty"):
        tab._decide(tab._accept, "shop", "q-3", [], "  ")
    assert read_corrections(study) == [] and "Who won?" in tab._draw_list(study)[tab.groups]


def test_a_version_goes_from_answers_to_visitors_and_back(tab, study, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(actions, "start_run", started.append)
    # the base is not downloaded here
    monkeypatch.setattr(actions, "code_needing_permission", lambda model: None)
    study.write_config(study.config.with_changes({"eval.judge_url": None}))
    assert set(drawn(tab, study)) == {"html"}, "there is nothing to train and nothing to publish"
    add_correction(study, "Who won?", "Nobody.")
    at_once = "Visitors get 1 corrected answer already" in drawn(tab, study)["html"]
    assert at_once == study.serves_corrections
    tab._train("shop")
    assert started == ["shop-v2"] and read_versions(study).candidate == "shop-v2"
    shown = drawn(tab, study)
    assert "is being made" in shown["html"] and set(shown) == {"html", "open", "refuse"}
    tab._change(tab._refuse, "shop")
    assert read_versions(study).reason("shop-v2") == "rejected before it was tested"
    add_version(study, make("shop-v3"))
    shown = drawn(tab, study)
    assert "no worse than shop" in shown["html"] and shown["publish"]["value"] == "Publish it"
    tab._change(tab._publish, "shop")
    assert served_version(study).name == "shop-v3"
    shown = drawn(tab, Study.open("shop-v3"))
    assert "Served: shop-v3" in shown["html"] and set(shown) == {"html", "undo"}, (
        "a version shows the same inbox"
    )
    for late in (tab._publish, tab._refuse):
        with pytest.raises(Exception, match="no new version waits"):
            tab._change(late, "shop")
    assert served_version(study).name == "shop-v3", "a click in an old window changes nothing"
    tab._change(tab._undo, "shop")
    assert served_version(study).name == "shop" and "Rejected versions" in drawn(tab, study)["html"]


def test_a_version_is_made_without_a_start_to_choose_how_it_is_trained(tab, study, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(actions, "start_run", started.append)
    add_correction(study, "Who won?", "Nobody.")
    shown = drawn(tab, study)
    assert {"next", "settings"} <= set(shown) and "with the preset “Balanced”" in shown["html"]
    picked, tabs = tab._make("shop")
    assert picked["value"] == "shop-v2" and tabs.selected == "train" and started == []
    assert "preset" not in drawn(tab, study)["html"], "another one cannot be made now"


def test_a_version_that_is_worse_is_kept_as_rejected(tab, study):
    version = make("shop-v2")
    edit(version, each(lambda sample: {"nll": sample["nll"] + sample["tokens"]}))
    add_version(study, version)
    shown = drawn(tab, study)
    assert "publish" not in shown and read_versions(study).reason("shop-v2") is not None
    assert "is worse than" in shown["html"]


def test_answers_of_the_second_version_are_trained_on_it(tab, study):
    add_version(study, make("shop-v2"))
    publish(study, "shop-v2")
    tab._decide(tab._accept, "shop", "q-3", [], "Nobody.")
    assert read_corrections(study) == [] and len(read_corrections(Study.open("shop-v2"))) == 1


def test_what_visitors_wrote_is_shown_as_text():
    study = make("hostile")
    keep(study, (HOSTILE, HOSTILE, False, -1))
    tab = inside_blocks(InboxTab)
    inbox = read_inbox(study, NOW)
    opened = tab._open("hostile", SimpleNamespace(name="q-0"))
    shown = [groups_view(inbox), *map(str, in_order(opened, tab._form))]
    assert "&lt;img" in shown[0] and not any("<img" in each for each in shown[:1])
    assert "<img" not in str(shown[3])


def test_drawn_answers_are_judged_by_one_click_and_shown_as_text(tab, study):
    keep_answered(study, 6, answer=HOSTILE)
    values = tab._draw_list(study)
    assert "No answer of the assistant that is served now was judged yet." in values[tab.watch]
    assert "When 0?" in values[tab.watch] and HOSTILE not in values[tab.watch]
    for number, action in enumerate(("right", "wrong", "wrong", "wrong")):
        click = SimpleNamespace(name=f"q-{number:04}", action=action)
        values = tab._judge("shop", click)
    assert "When 0?" not in values[tab.watch] and "When 4?" in values[tab.watch]
    assert "Judged wrong: 3 of 4 answers." in values[tab.watch]
    assert "Too many answers are wrong" in values[tab.watch]  # its report promised nothing
