"""``assistant-builder compare A B``."""

import json
import sys

import pytest

from assistant_builder.cli import main
from evals.study_compare import compare_studies
from tests.evals.study_compare.scored_studies import CELLS
from tests.synthetic_study import new_study, with_data


def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["assistant-builder", "compare", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return (int(ended.value.code or 0), *capfd.readouterr())


def test_the_command(a, b, monkeypatch, capfd):
    code, out, err = call(monkeypatch, capfd, "narrow", "wide", "--json")
    assert (code, err) == (0, "") and json.loads(out) == compare_studies(a, b)
    code, out, err = call(monkeypatch, capfd, "narrow", "wide")
    assert (code, err) == (0, "")
    assert out.startswith("A = narrow, B = wide\n") and "train.rank" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["Q4", "Exact", "match", "75.0%", "75.0%", "0.0"] in [line[:6] for line in lines]
    assert [line[0] for line in lines if line and line[0] in CELLS] == ["Q4"] * 7 + ["L16"] * 7 + [
        "B16"
    ]
    assert " ".join(compare_studies(a, b)["sentence"].split()) in " ".join(out.split())


def test_errors_of_the_command_are_one_line(a, monkeypatch, capfd):
    with_data(new_study("fresh"))
    wrong = (
        (("narrow", "nothing"), "no study named 'nothing'"),
        (("fresh", "narrow"), "not been evaluated"),
    )
    for words, said in wrong:
        code, out, err = call(monkeypatch, capfd, *words, "--json")
        assert (code, out) == (1, "") and said in err and len(err.splitlines()) == 1
    assert call(monkeypatch, capfd, "narrow")[0] == 2
