"""The readers on invalid and mutated bytes for a few seconds; ``python -m tests.fuzz`` runs longer."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import python
from tests.fuzz.__main__ import NAMES
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

SPLICES = (
    b"\0",
    b'"',
    b"'",
    b"\\",
    b",",
    b"\t",
    b"\r",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"!!int ",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u202e\u200b\u2028".encode(),
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"PAR1",
    b"[" * 2000,
    b"9" * 5000,
    b"2001-99-99",
    b"NaN",
    b"1e999",
    b'<!DOCTYPE a [<!ENTITY b "c">]>',
    b"&b;",
    b'r="2000000000"',
)
QUIET = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A valid input with pieces removed, doubled, overwritten or inserted."""
    data = draw(st.sampled_from(seeds(target)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        piece = draw(
            st.one_of(st.sampled_from(SPLICES), st.binary(max_size=8), st.just(data[start:end] * 2))
        )
        data = data[:start] + piece + data[end:]
    return data


def test_the_fuzzer_has_every_target():
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("target", NAMES)
def test_valid_inputs_are_accepted(target):
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", NAMES)
@settings(QUIET, max_examples=40)
@given(data=st.data())
def test_mutated_inputs_give_records_or_an_error(target, data):
    TARGETS[target](data.draw(mutated(target)))


@pytest.mark.parametrize("target", NAMES)
@settings(QUIET, max_examples=40)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    )
)
def test_any_bytes_give_records_or_an_error(target, data):
    TARGETS[target](data)


def test_the_coverage_guided_fuzzer_finds_nothing_in_a_few_seconds(tmp_path):
    pytest.importorskip(
        "atheris", reason="atheris has no wheels for this system: pip install '.[fuzz]'"
    )
    python("-m", "tests.fuzz", "pasted", "--seconds", 3, "--artifacts", tmp_path)
    assert not list(tmp_path.iterdir())
