"""What is masked in texts that are kept, and what is not, in four languages."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant_builder.chat.masking import mask, mask_name

PERSONAL, HARMLESS = (
    Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    for name in ("personal.txt", "harmless.txt")
)
"""Texts that identify a person, the identifying part between quotation marks; and texts that do not."""


@pytest.mark.parametrize("line", PERSONAL)
def test_what_identifies_a_person_is_masked(line):
    text = re.sub("[\u00ab\u00bb]", "", line)
    wanted = re.sub(
        "\u00ab(.*?)\u00bb", lambda found: "[e-mail]" if "@" in found[1] else "[number]", line
    )
    masked = mask(text)
    rest = re.sub(r"\[(number|e-mail)\]", "", masked)
    kept = re.sub(r"\[(number|e-mail)\]", "", wanted)
    # an extension, or a sign around the number, may be masked with it
    assert masked.count("[") >= wanted.count("[") and re.sub(r"\W", "", rest) in re.sub(
        r"\W", "", kept
    ), masked


@pytest.mark.parametrize("text", HARMLESS)
def test_prices_hours_dates_and_codes_stay(text):
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ann.lee+x@shop.example.org, please", "Write to [e-mail], please"),
        ("Call +49 (0)30 1234-5678 at 9:30", "Call [number] at 9:30"),
        ("0301234567 or 030/123 45 67", "[number] or [number]"),
        ("Card 4111 1111 1111 1111, 4111-1111-1111-1111.", "Card [number], [number]."),
        ("IBAN DE89 3704 0044 0532 0130 00 ist mein Konto", "IBAN [number] ist mein Konto"),
        (
            "123-45-6789, 030-12-3456, Tel.01512345678, DE89370400440532013000",
            "[number], [number], Tel.[number], [number]",
        ),
    ],
)
def test_the_rest_of_a_text_stays(text, masked):
    assert mask(text) == masked


def test_what_is_cut_ends_before_a_number_or_with_all_of_it():
    for most in range(30):
        masked = mask("Please ring 030 1234567 or 0171 2345678.", most)
        assert not re.search(r"\d", masked) and len(masked) <= most + len("[number]"), masked


@pytest.mark.parametrize(
    "piece",
    [
        "1 2 ",
        "0301 ",
        "(0",
        "030 1234567 or ",
        "0",
        "AA00 ",
        "a@",
        "a.a@",
        "4111 1111 1111 1112 ",
        "tel.1 ",
        "DE12 aa bb cc dd ee ff gg ",
        "0-",
        "a-",
    ],
)
def test_the_time_is_linear_in_the_length(piece):
    def seconds(length: int) -> float:
        began = time.process_time()
        mask((piece * length)[:length])
        return time.process_time() - began

    mask("030 1234567")  # reads the plans of the countries
    assert seconds(8_000) < 8 * min(seconds(2_000) for _ in range(2)) + 0.2
    began = time.process_time()
    mask("x@" + piece * 64_000, 2_000)
    assert time.process_time() - began < 3


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.text(
        st.sampled_from(
            "0123456789  -/.()+ABDEXYZde@\u00a0\u0660\uff10\u00b2\u2167\u200b\ud800\n,:;"
        ),
        max_size=80,
    )
)
def test_any_text_can_be_masked(text):
    assert mask_name(text) == mask_name(text) and mask(mask(text)).count("@") <= text.count("@")
