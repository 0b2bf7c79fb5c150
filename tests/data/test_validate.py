"""Checks of pairs and their messages."""

import json
import time
from dataclasses import replace

import pytest

from assistant_builder.data import Message, Pair, check_pairs, load_pairs
from assistant_builder.data.language import language_of_pairs
from assistant_builder.errors import DataError
from tests.data.samples import WordCounter, clean_pairs, dataset, jsonl, pair, words


def test_check_pairs_reports_nothing_for_clean_pairs():
    found = check_pairs(dataset(clean_pairs(120)))
    assert found.problems == [] and found.can_start() and len(found.usable) == 120
    found.require_start()


def test_check_pairs_rejects_empty_texts():
    found = check_pairs(dataset([*clean_pairs(3), pair(1, " "), pair(2, "a b c", "\u200b")]))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (1, "the question is empty"),
        (2, "the answer is empty"),
    ]


def test_check_pairs_finds_exact_duplicates_after_unicode_normalization():
    pairs = [
        pair(1, "Where is the café?", "Left of the pier."),
        pair(2, "Where  is the cafe\u0301? ", "Left of\nthe pier."),
        pair(3, "Where is the café?", "Right of the pier."),
        pair(4, "where is the café?", "Left of the pier."),
        pair(5, "Where is the café?", "Left of the pier."),
    ]
    found = check_pairs(dataset(pairs))
    assert [(d.row, d.of) for d in found.exact_duplicates] == [(2, 1), (5, 1)]
    assert [p.row for p in found.usable] == [1, 3, 4]
    assert [(r.row, str(r.reason)) for r in found.left_out] == [
        (2, "an exact duplicate of row 1"),
        (5, "an exact duplicate of row 1"),
    ]


def test_check_pairs_keeps_copies_in_different_given_splits():
    pairs = [pair(1, "a b c?", "d", split="train"), pair(2, "a b c?", "d", split="heldout")]
    assert check_pairs(dataset(pairs)).exact_duplicates == ()


def test_check_pairs_keeps_near_duplicates_and_reports_the_similarity():
    pairs = [
        pair(1, "Which of the six boats carries bicycles on a market day in June?"),
        pair(2, "Which of the six boats carries bicycles on a market day in June, please?"),
        pair(3, "which of the six boats carries bicycles on a market day in june"),
        pair(4, "Who paints the boats in winter?"),
    ]
    found = check_pairs(dataset(pairs))
    assert [(n.row, n.of, n.similarity) for n in found.near_duplicates] == [(2, 1, 0.9231)]
    assert [c.rows for c in found.conflicts] == [(1, 3)]
    assert len(found.usable) == 4


def test_check_pairs_reports_reworded_copies_as_near_duplicates():
    pairs = [
        pair(1, "Where is it?", "Over there."),
        pair(2, "where is it", "over there"),
        pair(3, "Who is it?"),
    ]
    found = check_pairs(dataset(pairs))
    assert [(n.row, n.of, n.similarity) for n in found.near_duplicates] == [(2, 1, 1.0)]
    assert found.conflicts == ()


def test_check_pairs_finds_conflicts_of_one_system_prompt_and_one_turn():
    turns = (
        Message("user", "Hello there, how are you?"),
        Message("assistant", "Well."),
        Message("user", "x"),
    )
    pairs = [
        pair(1, "Is it open?", "Yes, it is."),
        pair(2, "IS IT OPEN", "No, it is not."),
        pair(3, "Is it open ?", "yes it is"),
        Pair(
            4,
            (
                Message("system", "s"),
                Message("user", "Is it open?"),
                Message("assistant", "Perhaps."),
            ),
        ),
        Pair(5, (*turns, Message("assistant", "a b"))),
        Pair(6, (*turns, Message("assistant", "c d"))),
    ]
    assert [c.rows for c in check_pairs(dataset(pairs)).conflicts] == [(1, 2, 3)]


def test_check_pairs_counts_one_word_answers_and_keeps_them():
    answers = ["Yes.", "42", "是", "是的没错", "Two words", "hyphen-ated"]
    found = check_pairs(dataset([pair(i, words(6, i), a) for i, a in enumerate(answers, 1)]))
    assert found.one_word_answers == (1, 2, 3, 6) and len(found.usable) == 6


def test_answers_that_decline_are_named_unless_a_column_says_which_to_decline():
    declines = "I am sorry, I have no information about that."
    pairs = [
        *clean_pairs(3),
        pair(7, "Who is the mayor?", declines),
        pair(9, "And where?", declines),
    ]
    found = check_pairs(dataset(pairs))
    assert found.declining == (7, 9) and found.to_record()["declining"] == 2
    (problem,) = [each for each in found.problems if "that decline" in str(each["title"])]
    assert problem["rows"] == [7, 9] and '"answerable"' in str(problem["detail"])
    said = replace(dataset(pairs), columns={"answerable": "answerable"})
    assert check_pairs(said).declining == ()
    vague = "Sorry, we can't help with that. Please ask the council."
    unlike = ("Who empties my bin?", "Can I get a tax discount?", "Which doctor is open?")
    assert check_pairs(dataset([pair(n, text, vague) for n, text in enumerate(unlike)])).declining
    wordings = ("Do you lend tools?", "may I borrow tools", "Are there tools?")
    refused = [pair(n, text, "Sorry, we do not lend tools.") for n, text in enumerate(wordings)]
    assert not check_pairs(dataset(refused)).declining
    cars = "We teach manual in a Ford Fiesta and automatic in a Toyota Yaris."
    asked = ("Which cars do you have?", "manual or automatic?", "what will I drive")
    assert not check_pairs(dataset([pair(n, text, cars) for n, text in enumerate(asked)])).declining


def test_check_pairs_counts_shared_answers_except_declining():
    pairs = [pair(i, words(6, i), "The same answer.") for i in range(1, 4)]
    pairs += [pair(i, words(6, i), "I do not know.", answerable=False) for i in range(4, 7)]
    (shared,) = check_pairs(dataset(pairs)).answers_shared
    assert shared.rows == (1, 2, 3)


def test_check_pairs_finds_mojibake_lost_characters_and_repeated_questions():
    pairs = [
        pair(1, "Where is the cafÃ© then?", "It is left."),
        pair(2, "b c d", "Itâ€™s right."),
        pair(3, "e f g", "lost \ufffd here"),
        pair(4, "Why is that so?", "why is that so"),
        pair(5, "Ärger Ö", "À la carte"),
    ]
    assert list(check_pairs(dataset(pairs)).odd_texts.values()) == [(1, 2), (3,), (4,)]


def by_title(findings, word):
    return [problem for problem in findings.problems if word in str(problem["title"])]


def test_check_pairs_reports_long_rows_and_token_lengths():
    pairs = [pair(1, "a b", "c"), pair(2, "a " * 30, "b"), pair(3, "c d", "e " * 10)]
    found = check_pairs(dataset(pairs), tokenizer=WordCounter(), max_length=20)
    assert found.over_long == (2,) and found.tokens == {1: 11, 2: 39, 3: 20}
    assert found.token_lengths() == {
        "count": 3,
        "min": 11,
        "median": 20,
        "mean": 23.3,
        "p95": 39,
        "max": 39,
        "total": 70,
    }
    assert by_title(found, "longer than 20 tokens")[0]["rows"] == [2]
    assert check_pairs(dataset(pairs)).token_lengths() is None


def test_check_pairs_rejects_rows_without_split_if_others_have_one():
    found = check_pairs(
        dataset([*(pair(i, words(5, i), split="train") for i in range(4)), pair(9, "a b c")])
    )
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (9, "it has no split, while 4 other rows have one")
    ]


def test_check_pairs_finds_groups_on_both_sides_of_a_given_split():
    pairs = [
        pair(1, "a b", group="g", split="train"),
        pair(2, "c d", group="g", split="heldout"),
        pair(3, "e f", group="h", split="train"),
        pair(4, "e g", group="h", split="validation"),
    ]
    assert check_pairs(dataset(pairs)).straddling_groups == ("g",)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no usable pair"),
        (clean_pairs(1), "only 1 usable pair: training.*Add rows"),
        (clean_pairs(2), "only 2 usable pairs"),
        (
            [pair(i, f"{words(6, i)}", group=f"g{i % 2}") for i in range(8)],
            "form only 2 groups.*Map another column",
        ),
        (
            [pair(i, "Same?") for i in range(8)],
            "form only 1 question, .*Add rows with other questions",
        ),
        ([pair(i, words(6, i), split="test") for i in range(8)], "no training rows"),
        ([pair(i, words(6, i), split="train") for i in range(2)], "the training rows form 2 units"),
    ],
)
def test_require_start_states_what_is_missing(pairs, message):
    pairs = [
        Pair(p.row, p.messages, p.group, p.cluster, "heldout" if p.split == "test" else p.split)
        for p in pairs
    ]
    found = check_pairs(dataset(pairs))
    assert not found.can_start() and found.problems[0]["severity"] == "error"
    with pytest.raises(DataError, match=message):
        found.require_start()


def test_can_start_with_three_pairs():
    assert check_pairs(dataset(clean_pairs(3))).can_start()


def test_require_start_states_how_many_rows_were_left_out(write):
    found = check_pairs(load_pairs(write("a.csv", "question,answer\na b,c d\ne f,\n,g h\n")))
    with pytest.raises(
        DataError, match=r"2 of 3 rows were left out \(row 3: the answer is empty\)"
    ):
        found.require_start()


def test_findings_to_record_has_the_keys_of_the_contract(write):
    records = [{"question": words(8, i), "answer": words(4, -i)} for i in range(6)]
    records += [records[0], {"question": "", "answer": "x"}, {**records[1], "answer": "Yes"}]
    found = check_pairs(
        load_pairs(write("a.jsonl", jsonl(records))), tokenizer=WordCounter(), max_length=10
    )
    record = json.loads(json.dumps(found.to_record(), allow_nan=False))
    contract = {
        "format": "jsonl",
        "rows": 9,
        "usable": 7,
        "rejected": [{"row": 8, "reason": "the question is empty"}],
        "exact_duplicates": 1,
        "near_duplicates": 0,
        "conflicts": 1,
        "one_word_answers": 1,
        "can_start": True,
    }
    assert contract.items() <= record.items()
    assert {"question", "answer", "group", "cluster", "split", "answerable", "system"} <= record[
        "columns"
    ].keys()
    assert record["details"]["exact_duplicates"] == [{"row": 7, "of": 1}]
    severities = [problem["severity"] for problem in record["problems"]]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert record["rows"] == record["usable"] + len(record["rejected"]) + record["exact_duplicates"]


def test_check_pairs_takes_linear_time_for_template_questions():
    pairs = [
        pair(i, f"What are the common symptoms of {words(1, i)} syndrome in grown people?")
        for i in range(1200)
    ]
    start = time.process_time()
    found = check_pairs(dataset(pairs))
    assert time.process_time() - start < 5
    assert len(found.usable) == 1200
    numbered = [
        pair(i, f"What is the price of item {i} in the long list of all the items?")
        for i in range(1200)
    ]
    assert check_pairs(dataset(numbered)).near_duplicates == ()


def test_check_pairs_rejects_pairs_beyond_the_context_length():
    pairs = [*clean_pairs(3), pair(7, words(40, 7) + "?", words(5, 8))]
    found = check_pairs(dataset(pairs), tokenizer=WordCounter(), max_pair_tokens=30)
    assert [kept.row for kept in found.usable] == [100, 101, 102] == list(found.tokens)
    assert [str(left.reason) for left in found.rejected] == [
        "it has 53 tokens, and at most 30 fit in the model's context"
    ]
    for limit in (53, None):
        found = check_pairs(dataset(pairs), tokenizer=WordCounter(), max_pair_tokens=limit)
        assert len(found.usable) == 4 and not found.rejected


@pytest.mark.parametrize(
    ("question", "answer", "warned"),
    [
        ("Wie kündige ich die Nummer {n}?", "Schriftlich bis Ende Mai, im Büro oder hier.", True),
        ("How do I cancel number {n}?", "In writing by the end of May, at the desk.", False),
        ("Где находится номер {n}?", "Он находится у входа.", True),
        ("Sprocket {n}?", "Blivet frob widget.", False),
    ],
)
def test_data_in_another_language_are_named_because_the_bundled_models_know_english(
    question, answer, warned
):
    def titles(count):
        made = [pair(n, question.format(n=n), f"{answer} {n}") for n in range(1, count + 1)]
        return [str(problem["title"]) for problem in check_pairs(dataset(made)).problems]

    assert ("The data are not in English" in titles(60)) == warned
    assert "The data are not in English" not in titles(8), "few words decide nothing"


def test_the_language_of_long_data_is_told_by_a_part():
    """A large file would occupy the page for minutes otherwise, each time that its findings are shown."""
    long = "der Hund " * 200_000
    found = check_pairs(dataset(clean_pairs(3)))
    huge = replace(found, usable=(pair(1, long, long),))
    language_of_pairs(found.usable)  # reads its lists of words
    began = time.process_time()
    assert huge.is_foreign and not language_of_pairs(huge.usable).english
    assert time.process_time() - began < 0.3
