"""Wordings of facts: a file whose answers occur once, further wordings, and the split that holds wordings out."""

from pathlib import Path

import pytest

from assistant_builder.config import DataConfig
from assistant_builder.data import Pair, Split, check_pairs, load_pairs, split_pairs
from assistant_builder.data.wordings import (
    Wording,
    WordingCount,
    add_wordings,
    count_wordings,
    match_wordings,
    pairs_to_word,
    parse_drafts,
    parse_wordings,
    read_wordings,
    wordings_in_columns,
    write_drafts,
)
from assistant_builder.errors import DataError
from tests.data.samples import pair, words


def faq(number: int = 71, *, start: int = 1, again: int = 0) -> list[Pair]:
    """Facts with one wording each, and a second one of the first ``again`` facts."""
    once = [pair(i, f"{words(5, i)}?", words(6, i + 500)) for i in range(start, start + number)]
    return once + [
        pair(1000 + i, f"{words(5, 2000 + i)}?", words(6, i + 500))
        for i in range(start, start + again)
    ]


def counted(split: Split) -> WordingCount:
    count = count_wordings(split.to_record())
    assert count is not None
    return count


def write_faq(path: Path, number: int = 71, header: str = "question,answer,page") -> Path:
    rows = "".join(f"{p.question},{p.answer},{p.row % 7}\n" for p in faq(number))
    path.write_text(f"{header}\n{rows}")
    return path


def test_a_file_whose_answers_occur_once_says_what_a_test_can_show():
    count = counted(split_pairs(faq(), DataConfig()))
    assert count.occurs_once and count.title == "Each answer occurs once"
    assert (count.facts, count.single, count.test, count.respelled) == (71, 71, 0, 14)
    assert "trained on all of them" in count.meaning
    assert "nothing is tested in other words" in count.meaning
    assert "about ten questions" in count.remedy


def test_a_given_test_of_unknown_answers_is_said_to_show_something_else():
    given = [
        pair(i, f"{words(5, i)}?", words(6, i), split="train" if i > 14 else "heldout")
        for i in range(1, 72)
    ]
    count = counted(split_pairs(given, DataConfig()))
    assert (count.occurs_once, count.holds_facts_out, count.test, count.known) == (
        True,
        True,
        14,
        0,
    )
    assert (
        "asks 14 questions, and none of their answers is among those of training" in count.meaning
    )
    assert "your 71 answers" in count.meaning and "other wordings" in count.remedy


def test_other_wordings_are_held_out_and_not_facts():
    split = split_pairs(faq(again=71), DataConfig())
    count = counted(split)
    assert len(split.heldout) == 28 and count.known == count.test == 28 and not count.occurs_once
    few = counted(split_pairs(faq(again=10), DataConfig()))
    assert few.known == few.test == 10  # the test uses the wordings that there are


def test_declined_questions_keep_their_share_of_the_test():
    declined = [
        pair(5000 + i, f"{words(5, 9000 + i)}?", "I do not know.", answerable=False)
        for i in range(20)
    ]
    split = split_pairs([*faq(again=10), *declined], DataConfig())
    assert 1 <= sum(not p.answerable for p in split.heldout) <= 9


def test_groups_are_named_as_the_reason_why_wordings_do_not_help():
    grouped = [pair(i, f"{words(5, i)}?", words(6, i), group=f"g{i % 9}") for i in range(60)]
    assert "map no group column" in counted(split_pairs(grouped, DataConfig())).remedy


def test_pasted_wordings_are_matched_by_answer_question_or_row():
    pairs = faq(5)
    cells = parse_wordings(
        f"Is it open?\t{pairs[0].answer.upper()}\nHow much is it?\t{pairs[1].question}\nWho?\t3\n"
        f"Lost?\tnowhere\n{pairs[2].question}\t{pairs[2].answer}\n{pairs[3].answer}\t4\n"
    )
    found, unmatched = match_wordings(pairs, cells)
    assert [(w.row, w.question) for w in found] == [
        (1, "Is it open?"),
        (2, "How much is it?"),
        (3, "Who?"),
        (4, pairs[3].answer),
    ]
    assert (
        unmatched == ["Lost?"]
        and str(found[3].doubt) == "this is the answer"
        and not found[0].doubt
    )
    near, _ = match_wordings(
        [pair(1, "When do you open your doors on Sundays in summer?", "At ten.")],
        [("When do you open your doors on Sundays in Summer then?", "At ten.")],
    )
    assert str(near[0].doubt) == "nearly the same words"
    for text in ("", "Only a question\n"):
        with pytest.raises(DataError):
            parse_wordings(text)


def test_columns_without_a_role_can_have_other_wordings(tmp_path):
    source = tmp_path / "faq.csv"
    source.write_text(
        "Question,Answer,Or they say,Notes,Links\n"
        'Are you open on Sundays?,From ten.,"open sunday; what about bank holidays?",ask Ann first,\n'
        'Can I park?,In the yard.,"Is there a car park? Where do I leave the car?",,see page 4\n'
        "Do you deliver?,Yes.,do you deliver?,,\n"
        "Nobody answers this,,why not,,\n"
    )
    pairs = load_pairs(source).pairs
    titles, found = wordings_in_columns(source, pairs)
    assert titles == ["Or they say"]
    assert [(each.row, each.question) for each in found] == [
        (1, "open sunday"),
        (1, "what about bank holidays?"),
        (2, "Is there a car park?"),
        (2, "Where do I leave the car?"),
    ]
    assert wordings_in_columns(source, pairs, {"group": "Or they say"}) == ([], [])
    columns = add_wordings(source, found, tmp_path / "more.jsonl")
    more = load_pairs(tmp_path / "more.jsonl", columns=columns).pairs
    assert len(more) == 7 and wordings_in_columns(tmp_path / "more.jsonl", more, columns)[1] == []
    source.write_text("question,answer,x\nWho?,Ann.,Who is it?\nWhen?,Now.,When is it?\n")
    assert wordings_in_columns(source, load_pairs(source).pairs)[0] == ["x"], (
        "its cells are questions"
    )


@pytest.mark.parametrize("columns", [{}, {"group": "", "cluster": ""}])
def test_accepted_wordings_become_rows_of_the_cluster_of_their_fact(tmp_path, columns):
    source = write_faq(tmp_path / "faq.csv", 30)
    mapped = add_wordings(
        source,
        [Wording(row, f"Other wording {row}?") for row in range(1, 31)],
        tmp_path / "more.jsonl",
        columns,
    )
    data = load_pairs(tmp_path / "more.jsonl", columns=mapped)
    first, last = data.pairs[0], data.pairs[30]
    assert len(data.pairs) == 60 and not data.rejected
    assert last.question == "Other wording 1?" and last.answer == first.answer
    assert first.cluster == last.cluster == "row 2" and data.pairs[1].cluster == "row 3"
    assert '"page": "1"' in (tmp_path / "more.jsonl").read_text().splitlines()[31]
    split = split_pairs(check_pairs(data).usable, DataConfig(columns=mapped))
    assert counted(split).known == len(split.heldout) > 5


def test_conversations_and_given_splits_take_wordings_too(tmp_path):
    source = tmp_path / "chat.jsonl"
    turns = '[{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "At ten."}]'
    source.write_text(f'{{"messages": {turns}, "split": "test"}}\n')
    mapped = add_wordings(source, [Wording(1, "When can I come?")], tmp_path / "more.jsonl")
    old, new = load_pairs(tmp_path / "more.jsonl", columns=mapped).pairs
    assert (new.question, new.answer, new.split, old.split) == tuple(
        "When can I come? | At ten. | train | heldout".split(" | ")
    )
    assert new.cluster == old.cluster


def test_only_accepted_drafts_are_read_and_a_second_file_is_read_whole(tmp_path):
    pairs = faq(3)
    write_drafts(tmp_path / "drafts.csv", pairs, [Wording(1, "=Open?"), Wording(2, "How much?")])
    assert read_wordings(tmp_path / "drafts.csv") == []  # nobody has looked at them
    text = (tmp_path / "drafts.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "drafts.csv").write_text(text.replace(",'=Open?", "yes,'=Open?"), encoding="utf-8")
    assert read_wordings(tmp_path / "drafts.csv") == [("=Open?", "1")]
    (tmp_path / "more.csv").write_text("question,answer\nWho?,The clerk.\n")
    assert read_wordings(tmp_path / "more.csv") == [("Who?", "The clerk.")]
    (tmp_path / "odd.csv").write_text("a,b\nWho?,The clerk.\n")
    with pytest.raises(DataError) as error:
        read_wordings(tmp_path / "odd.csv")
    assert "row number" in str(error.value.remedy)


def test_drafts_are_questions_without_numbers_and_marks():
    reply = 'Here are two questions:\n1. "When can I come?"\n- What are your hours?\n\nHm\n3) Are you open now?'
    assert [w.question for w in parse_drafts(reply, pair(7, "Open?", "At ten."), 2)] == [
        "When can I come?",
        "What are your hours?",
    ]
    assert {p.row for p in pairs_to_word(faq(5, again=2))} == {3, 4, 5}
