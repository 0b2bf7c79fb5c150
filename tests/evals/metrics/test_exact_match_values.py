"""Answers with another meaning are not exactly right."""

import pytest

from evals.metrics.text import exact_match


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Take 5 mg.", "Take .5 mg."),
        ("Add 12 cups.", "Add ½ cups."),
        ("112 litres", "1½ litres"),
        ("102", "10²"),
        ("210", "2^10"),
        ("It costs €5.", "It costs $5."),
        ("-$5", "$5"),
        ("Children > 12 pay.", "Children < 12 pay."),
        ("≤ 18", "≥ 18"),
        ("Rh−", "Rh+"),
        ("Vitamin", "Vitamin A"),
        ("Gate", "Gate A"),
        ("C++", "C"),
        ("ab.com", "a@b.com"),
        ("5″", "5′"),
        ("+", "-"),
        ("8 am", "8 pm"),
        ("It is refundable.", "It is not refundable."),
        ("3.5", "35"),
        ("-5", "5"),
        ("10 mg", "10 µg"),
    ],
)
def test_another_value_is_another_answer(answer, reference):
    assert exact_match(answer, reference) == 0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("0.5 mg", ".5 mg"), ("9 am", "9am"), ("£5.00", "£5"), ("5.0", "5"), ("1,000", "1000")],
)
def test_the_same_value_in_another_notation_is_right(answer, reference):
    assert exact_match(answer, reference) == 1
