"""The checks of the widget's load test: what each of them notices, without a server."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from assistant_builder.chat.visitor_log import VisitorLog, log_file, opened
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Sampling
from assistant_builder.study import Study
from benchmarks.scripted_worker import UNKNOWN, answer_to
from benchmarks.widget_checks import Load, Sample, checks, later
from benchmarks.widget_visitors import NOBODY, Known, Question, Scripted, Site
from tests.synthetic_study import new_study


def asked(load: Load, *, earlier: tuple[Question, ...] = (), **changes: Any) -> Question:
    """A question that was answered, unless the changes say otherwise."""
    found = load.site.new(earlier)
    found.status, found.ended, found.id = 200, True, f"q-{len(load.site.asked)}"
    found.answer, found.declined = answer_to(found.conversation), UNKNOWN in found.text.split()
    found.sent, found.first_text = 1.0, 0.1
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def refused(load: Load) -> Question:
    return asked(load, status=429, retry="5", ended=False, answer="", id="", declined=False)


@pytest.fixture
def study() -> Study:
    return new_study("library")


@pytest.fixture
def load(study: Study) -> Load:
    """A load without faults: its questions, and the log of its server."""
    found = Load(
        Site("", "library", "", Scripted(), httpx.AsyncClient()), surge_time=(10.0, 20.0), code=0
    )
    first = asked(found, vote=-1, suggestion="It should say more", places=[3, 1])
    asked(found, earlier=(first,), tab=first.tab)
    asked(found, left=True, ended=False, id="", answer="q", declined=False)
    asked(found, left=True, ended=False, id="", answer="q", declined=False)
    found.crowd = [*(asked(found) for _ in range(3)), *(refused(found) for _ in range(2))]
    found.hasty = [*(asked(found) for _ in range(30)), *(refused(found) for _ in range(3))]
    found.surge = [asked(found), refused(found)]
    found.surge[-1].sent = 11.0
    found.rested, found.again = [asked(found)], [asked(found)]
    found.first_texts = [(0.05, 0.04)] * 20
    found.before = found.after = Sample(0.0, 90_000_000, 270_000_000, 20, 8)
    found.samples = [Sample(second, 90_000_000, 270_000_000, 60, 8) for second in range(100)]
    log = VisitorLog(log_file(study), "texts", 90)
    for each in found.site.asked:
        if (
            each.ended or each is found.site.asked[2]
        ):  # one answer was complete before the server knew
            text = each.answer if each.ended else answer_to(each.conversation)
            log.asked(
                each.id or "q-unread",
                each.tab,
                "library-lora",
                each.text,
                text,
                declined=each.declined,
            )
            log.voted(each.id, each.vote, each.suggestion)
    log.close()
    return found


def test_a_load_without_faults_passes(load, study):
    assert [check for check in checks(load, study) if not check.passed] == []
    assert later(load) == pytest.approx((0.01, 0.01))


def changed(field: str, value: Any, place: int = 0) -> Callable[[Load], None]:
    return lambda load: setattr(load.site.asked[place], field, value)


def grown(field: str, value: int) -> Callable[[Load], None]:
    def grow(load: Load) -> None:
        load.samples = [
            replace(each, **{field: value}) if each.seconds > 80 else each for each in load.samples
        ]

    return grow


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (changed("answer", "qz is all of it here"), "answers to another question"),
        (changed("conversation", ["qz hello"], 1), "answers to another question"),
        (changed("ended", False), "without an answer"),
        (changed("id", "q-lost"), "in the log"),
        (changed("vote", 1), "in the log"),
        (changed("tab", "another"), "in the log"),
        (changed("answer", "something else was said", 2), "in the log"),
        (changed("places", [3, 3, 1]), "did not go down"),
        (changed("places", [70, 1]), "highest"),
        (lambda load: setattr(load.crowd[-1], "status", 200), "at once from one address"),
        (lambda load: setattr(load.hasty[-1], "status", 200), "too many from one address"),
        (lambda load: setattr(load.surge[-1], "status", 200), "more than may wait"),
        (lambda load: setattr(load.surge[-1], "sent", 30.0), "refused: others"),
        (lambda load: setattr(load.surge[-1], "retry", None), "without Retry-After"),
        (lambda load: setattr(load.surge[-1], "retry", "0"), "without Retry-After"),
        (lambda load: load.rested[0].places.append(1), "when nobody asks"),
        (lambda load: setattr(load.again[0], "status", 429), "may not ask again"),
        (grown("memory", 95_000_000), "memory of the server"),
        (grown("processes", 290_000_000), "memory with its processes"),
        (grown("files", 90), "open files after"),
        (grown("threads", 20), "threads"),
        (
            lambda load: setattr(load, "after", Sample(0.0, 90_000_000, 270_000_000, 40, 8)),
            "at rest",
        ),
        (lambda load: load.first_texts.extend([(0.5, 0.1)] * 2), "first text later"),
        (lambda load: load.site.wrong.append("a vote was refused"), "other faults"),
        (lambda load: setattr(load, "said", "Traceback"), "errors of the server"),
        (lambda load: setattr(load, "code", 1), "errors of the server"),
    ],
)
def test_each_fault_is_noticed(load, study, damage, name):
    damage(load)
    assert any(name in check.name for check in checks(load, study) if not check.passed)


def test_a_question_that_is_not_kept_is_noticed(load, study):
    with opened(log_file(study)) as connection:
        connection.execute("DELETE FROM question WHERE id = 'q-1'")
    assert any("in the log" in check.name for check in checks(load, study) if not check.passed)


@pytest.mark.parametrize("id", ["q-1", "q-unread"])
def test_a_question_that_is_kept_twice_is_noticed(load, study, id):
    with opened(log_file(study)) as connection:
        names = [
            row[1] for row in connection.execute("PRAGMA table_info(question)") if row[1] != "id"
        ]
        connection.execute(
            f"INSERT INTO question (id, {', '.join(names)}) SELECT 'twice', {', '.join(names)} "
            "FROM question WHERE id = ?",
            (id,),
        )
    assert any("in the log" in check.name for check in checks(load, study) if not check.passed)


def test_questions_by_which_answers_are_known_are_no_visitor_s(load, study):
    log = VisitorLog(log_file(study), "texts", 90)
    log.asked("q-before", NOBODY, "library-lora", "When?", "At nine.", declined=False)
    log.close()
    assert not any("in the log" in check.name for check in checks(load, study) if not check.passed)


def test_what_is_masked_in_the_log_is_no_fault(load, study):
    log = VisitorLog(log_file(study), "texts", 90)
    told = asked(load, answer="Ring 0161 496 0000 or write to help@shop.example.", id="q-masked")
    left = asked(load, answer="Ring 0161 49", id="", left=True, ended=False)
    for each, id in ((told, told.id), (left, "q-left")):
        log.asked(id, each.tab, "library-lora", each.text, told.answer, declined=each.declined)
    log.close()
    failed = [check.name for check in checks(load, study) if not check.passed]
    assert not any("in the log" in name for name in failed)


def test_an_answer_of_a_study_to_another_question_is_noticed():
    known = Known({"When?": "At nine.", "Where?": "Here."})
    assert known.question() == "When?" and known.question() == "Where?"
    assert not known.wrong(Question(["When?"], answer="At nine."))
    assert not known.wrong(Question(["When?"], answer="9"))
    assert known.wrong(Question(["When?"], answer="Here.")) and known.wrong(Question(["When?"]))


def test_a_conversation_is_sent_as_the_widget_sends_it():
    assert Question(["a", "b"], ["A"]).messages() == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "b"},
    ]


def test_the_script_stops_when_asked():
    import threading

    from benchmarks.scripted_worker import ScriptedSession

    stop = threading.Event()
    chunks = ScriptedSession().stream(
        "lora", [Message("user", "qa is all of it here ?")], Sampling(), stop
    )
    assert next(chunks).text_delta == "qa "
    stop.set()
    assert [chunk.finish for chunk in chunks] == ["cancelled"]


def test_addresses_and_questions_are_not_repeated():
    site = Site("", "", "", Scripted(), httpx.AsyncClient())
    found = [site.new() for _ in range(2_000)]
    assert len({each.address for each in found}) == len({each.text for each in found}) == 2_000
    asyncio.run(site.client.aclose())
