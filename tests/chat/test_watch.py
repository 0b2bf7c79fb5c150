"""A promise is watched by answers that a person judges."""

import json
import random
import time
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest

from assistant_builder.atomic_io import write_json, write_jsonl
from assistant_builder.chat import drift
from assistant_builder.chat.drift import LEAST, compared
from assistant_builder.chat.visitor_log import A_WEEK, VisitorLog, erase, log_file, opened
from assistant_builder.chat.watch import (
    FALSE_ALARMS,
    Watch,
    evidence_against,
    evidence_for,
    judge,
    read_watch,
    said,
)
from assistant_builder.errors import DataError
from assistant_builder.i18n import render
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.promise import if_broken, version_name
from assistant_builder.study import Study
from assistant_builder.ui.inbox.view import watch_view
from tests.commands import command
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import new_study, with_data

ANSWER = "It opens at nine."
JUDGED = {"confidence": 0.8}


def keep(
    study: Study,
    count: int,
    kept: Any = "texts",
    start: int = 0,
    answer: str = ANSWER,
    model: str = "library-lora",
    similarity: float = 0.8,
    **changes: Any,
) -> None:
    """Keep answered questions."""
    log = VisitorLog(log_file(study), kept, 90)
    for number in range(start, start + count):
        judged = {"confidence": 0.9, "evidence": {"similarity": similarity}}
        asked = {"declined": False, "judged": judged, **changes}
        log.asked(f"q-{number:04}", "v", model, f"When {number}?", answer, **asked)
    log.close()


def test_the_first_answers_are_drawn_and_then_about_ten_a_week():
    study = new_study()
    assert read_watch(study, study) == Watch(0.05) and Watch(0.05).holds
    keep(study, A_WEEK)
    found = read_watch(study, study)
    assert [each.question for each in found.waiting] == [f"When {n}?" for n in range(5)]
    assert found.waiting[0].answer == ANSWER and found.judged == 0
    random.seed(5)
    for batch in range(20):
        keep(study, 25, start=100 + 25 * batch)
    with opened(log_file(study)) as connection:
        rows = connection.execute("SELECT chance, draw < chance FROM drawn ORDER BY id").fetchall()
    assert len(rows) == A_WEEK + 500 and all(0 < chance <= 1 for chance, _ in rows)
    expected = sum(chance for chance, _ in rows[A_WEEK:])
    drawn = sum(taken for _, taken in rows[A_WEEK:])
    assert abs(drawn - expected) < 4 * expected**0.5
    assert rows[-1][0] == pytest.approx(A_WEEK / (A_WEEK + 475))


@pytest.mark.parametrize(
    "changes",
    [
        {"declined": True},
        {"state": "talk"},
        {"state": "clarified"},
        {"judged": {}},
        {"kept": "counts"},
    ],
)
def test_what_is_no_judged_answer_is_not_drawn(changes):
    study = new_study()
    keep(study, 3, **changes)
    assert read_watch(study, study) == Watch(0.05)


def test_judgements_count_once_and_a_wrong_one_speaks_against_the_promise():
    study = with_data(new_study(retrieval__if_broken="decline"))
    keep(study, A_WEEK)
    for number in range(3):
        judge(study, study, f"q-{number:04}", right=number > 0)
    judge(study, study, "q-0002", right=True)
    found = read_watch(study, study)
    assert (found.judged, found.wrong) == (3, 1)
    assert found.evidence > 1 and found.holds and found.waiting[0].id == "q-0003"
    judge(study, study, "q-0000", right=True)
    assert read_watch(study, study).wrong == 0
    for number in range(4):
        judge(study, study, f"q-{number:04}", right=False)
    assert not read_watch(study, study).holds
    assert if_broken(study, study, "lora") == "decline"
    assert if_broken(study, study, "qlora") == "answer"
    for number in range(4):
        judge(study, study, f"q-{number:04}", right=True)
    assert if_broken(study, study, "lora") == "answer"
    with pytest.raises(DataError, match="no answer with the id 'q-9999' was drawn"):
        judge(study, study, "q-9999", right=True)
    assert erase(study, "v") == A_WEEK and read_watch(study, study) == Watch(0.05)


def test_copying_takes_the_place_of_what_broke_its_promise_until_it_does_too():
    study = with_data(new_study(retrieval__if_broken="copy"))
    keep(study, 4)
    for number in range(4):
        found = judge(study, study, f"q-{number:04}", right=False)
    assert found.instead == {"library-lora": "copy"}
    time.sleep(0.01)
    keep(study, 4, start=4, model="library-copy")
    found = judge(study, study, "q-0004", right=True)  # takes nothing back
    assert (found.judged, found.wrong, found.instead) == (1, 0, {"library-lora": "copy"})
    text = render(said(found, promised=True))
    assert "library-lora broke its promise, and answers are copied" in text
    for number in range(4, 8):
        found = judge(study, study, f"q-{number:04}", right=False)
    assert found.instead == {"library-lora": "copy", "library-copy": "decline"}
    assert "library-copy broke its promise, and declines every" in render(
        said(found, promised=True)
    )
    for number in range(4):
        found = judge(study, study, f"q-{number:04}", right=True)
    assert found.instead == {"library-copy": "decline"}


def test_copied_answers_whose_search_was_trained_are_judged_anew():
    study = with_data(new_study(retrieval__if_broken="decline"))
    keep(study, 4, model=version_name(study, "copy"))
    for number in range(4):
        judge(study, study, f"q-{number:04}", right=False)
    assert if_broken(study, study, "copy") == "decline"
    study.retrieval_folder.mkdir(exist_ok=True)
    record = {
        "facts": 1,
        "dimensions": 2,
        "embedder": {"name": "e", "sha256": "a" * 64},
        "sha256": {},
    }
    write_json(study.retrieval_folder / "index.json", record)
    assert if_broken(study, study, "copy") == "answer"
    keep(study, 2, start=4, model=version_name(study, "copy"))
    found = read_watch(study, study)
    assert (found.judged, [each.id for each in found.waiting]) == (0, ["q-0004", "q-0005"])


def with_tested(study: Study, *tested: tuple[bool, float]) -> None:
    """Test questions of the float16 arm: whether each was declined, and the score of the best answer."""
    folder, tasks = study.cell_folder("L16"), study.evals_folder / "tasks"
    for each in (folder, tasks):
        each.mkdir(parents=True)
    lines = [{"item": str(place), "declined": each} for place, (each, _) in enumerate(tested)]
    write_jsonl(folder / "samples.jsonl", lines)
    items = [
        {"item": str(place), "evidence": {"similarity": each}}
        for place, (_, each) in enumerate(tested)
    ]
    write_jsonl(tasks / "items.jsonl", items)


def test_questions_unlike_those_of_the_test_withdraw_the_promise_until_judgements_show_it():
    study = with_data(new_study(retrieval__most_wrong=0.2))
    rng = random.Random(3)
    with_tested(study, *((number % 10 == 0, 0.8 + 0.2 * rng.random()) for number in range(200)))
    for number in range(LEAST):
        assert read_watch(study, study).drift is None  # too few
        keep(study, 1, start=number, similarity=0.8 + 0.2 * rng.random())
    found = read_watch(study, study)
    assert found.drift is not None and found.holds and not list(found.drift.sentences())
    assert (found.drift.asked, found.drift.declined, found.drift.tested_declined) == (LEAST, 0, 0.1)
    keep(study, 40, kept="counts", start=100, similarity=0.6)  # texts are not needed
    keep(study, 5, start=200, declined=True, similarity=0.5)
    found = read_watch(study, study)
    text = render(said(found, promised=True))
    assert (
        "unlike those of the test: the nearest question of the data is typically 60 % similar"
        in text
    )
    assert not found.broken and not found.holds and "lack" not in text
    assert f"is withdrawn: {found.needed} more right answers, and no wrong one" in text
    assert "withdrawn" not in render(said(found, promised=False))
    assert "The promise is withdrawn" in watch_view(found, promised=True)
    for more in range(found.needed):
        assert not replace(found, judged=more).holds
    shown = replace(found, judged=found.needed)
    assert shown.holds and "promise for what visitors ask, too" in render(
        said(shown, promised=True)
    )
    assert if_broken(study, study, "lora") == "answer"
    keep(study, 30, start=300, declined=True)
    text = render(said(read_watch(study, study), promised=True))
    assert "33 % of their questions were declined, and 10 % of those of the test" in text


@pytest.mark.parametrize("most", [0.05, 0.2])
def test_a_promise_that_does_not_hold_is_seldom_shown(most):
    rng, shown, runs = random.Random(7), 0, 400
    for _ in range(runs):
        counts = accumulate(rng.random() < most for _ in range(300))
        shown += any(
            evidence_for(judged, wrong, most) >= 1 / FALSE_ALARMS
            for judged, wrong in enumerate(counts, start=1)
        )
    assert shown / runs <= FALSE_ALARMS + 0.02


def test_a_database_of_millions_of_questions_is_read_up_to_the_limit(monkeypatch):
    study = with_data(new_study())
    with_tested(study, (False, 0.5))
    keep(study, LEAST + 5)
    monkeypatch.setattr(drift, "MAX_QUESTIONS", LEAST)
    found = read_watch(study, study).drift
    assert found is not None and found.asked == LEAST


def test_the_name_of_an_assistant_is_no_path():
    study = with_data(new_study())
    (study.folder / "samples.jsonl").write_text('{"declined": true}\n', encoding="utf-8")
    keep(study, LEAST, model="library-/../..")
    assert read_watch(study, study).drift is None


def test_another_version_begins_anew():
    study = new_study()
    keep(study, 4)
    judge(study, study, "q-0000", right=False)
    time.sleep(0.01)
    with closing(VisitorLog(log_file(study), "texts", 90)) as log:
        log.asked("q-new", "v", "library-v2-lora", "When?", ANSWER, declined=False, judged=JUDGED)
    judge(
        study, study, "q-0001", right=False
    )  # of the earlier version, which was listed a moment ago
    found = read_watch(study, study)
    assert found.judged == 0 and [each.id for each in found.waiting] == ["q-new"]


def test_a_clock_that_was_ahead_hides_no_later_version(monkeypatch):
    study = new_study()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3650 * 86_400)
    keep(study, 2)
    monkeypatch.setattr(time, "time", lambda: now)
    with closing(VisitorLog(log_file(study), "texts", 90)) as log:
        log.asked("q-new", "v", "library-v2-lora", "When?", ANSWER, declined=False, judged=JUDGED)
    assert [each.id for each in read_watch(study, study).waiting] == ["q-new"]


def test_what_cannot_be_judged_is_an_error_and_leaves_no_file():
    study = new_study()
    with pytest.raises(DataError, match="no answer with the id 'q-1' was drawn"):
        judge(study, study, "q-1", right=True)
    assert not log_file(study).exists()


def test_a_promise_is_shown_by_as_many_judgements_as_the_documentation_says():
    assert (Watch(0.05).needed, Watch(0.2).needed) == (76, 18)


def test_evidence_grows_with_wrong_answers_and_has_no_overflow():
    assert evidence_against(0, 0, 0.05) == 1
    values = [evidence_against(50, wrong, 0.05) for wrong in range(51)]
    assert values == sorted(values) and values[0] < 1 < values[10]
    assert evidence_against(10**7, 10**7, 0.01) >= 1 / FALSE_ALARMS


@pytest.mark.parametrize("most", [0.05, 0.2, 0.5])
def test_a_promise_that_holds_is_seldom_withdrawn_and_one_that_does_not_soon(most):
    rng = random.Random(11)

    def withdrawn(share: float, labels: int) -> float:
        """Share of the runs in which it is withdrawn after any judgement."""
        runs, alarms = 300, 0
        for _ in range(runs):
            counts = accumulate(rng.random() < share for _ in range(labels))
            alarms += any(
                evidence_against(judged, wrong, most) >= 1 / FALSE_ALARMS
                for judged, wrong in enumerate(counts, start=1)
            )
        return alarms / runs

    # a simulated year with ten judgements a week
    assert withdrawn(most, 520) <= FALSE_ALARMS
    assert withdrawn(min(4 * most, 0.95), 60) >= 0.75


def test_the_command_line_judges_and_says_what_that_means(monkeypatch):
    monkeypatch.setattr(Embedder, "of", lambda *_: FakeEmbedder())
    study = new_study()
    keep(study, 4)
    listed = command("inbox library", inside=True).stdout
    assert (
        "No answer of the assistant that is served now was judged yet." in listed
        and "--right q-0000, or --wrong" in listed
    )
    said = command("inbox library --right q-0000", inside=True).stdout
    assert "Judged wrong: 0 of 1 answer." in said
    said = command("inbox library --wrong q-0001", inside=True).stdout
    assert "Judged wrong: 1 of 2 answers." in said
    promise = json.loads(command("inbox library --json", inside=True).stdout)["promise"]
    assert (promise["judged"], promise["wrong"], promise["promised"]) == (2, 1, False)
    assert promise["holds"] and not promise["broken"] and promise["needed"] == 0
    assert [each["id"] for each in promise["waiting"]] == ["q-0002", "q-0003"]
    assert (
        "no answer with the id" in command("inbox library --right q-1", ends=1, inside=True).stderr
    )


def test_many_questions_and_a_small_test_are_compared_at_once():
    made = random.Random(0)
    asked = [(0, made.random() / 2) for _ in range(10_000)]
    tested = [(0, 0.5 + made.random() / 2) for _ in range(8)]
    compared(asked[:100], tested)  # imports scipy
    began = time.process_time()
    assert compared(asked, tested).unlike and not compared(asked, asked[:8]).unlike
    assert time.process_time() - began < 3  # exact ranks take a minute, and hours for 100,000
