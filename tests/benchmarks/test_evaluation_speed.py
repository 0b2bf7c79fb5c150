"""The table of the evaluation benchmark."""

from __future__ import annotations

from benchmarks.evaluation_speed import table


def test_the_table_shows_the_speed_ratios() -> None:
    said = table(
        {
            "study": "demo",
            "items": 100,
            "max_new_tokens": 32,
            "processors": 2,
            "answering": [{"alone": 10.0, "together": 50.0}, {"alone": 10.0, "together": 60.0}],
            "cells": [{"lm_eval": 300.0, "ours": 100.0}],
            "switching": [{"load": 2.5, "switch": 0.0125}],
        }
    )
    assert "| 10 tokens/s | 55 tokens/s | 5.5 |" in said
    assert "| 300 s | 100 s | 3.0 |" in said
    assert "| 2.5 s | 0.0125 s | 200.0 |" in said


def test_an_unmeasured_part_has_no_row() -> None:
    said = table(
        {
            "study": "demo",
            "items": 1,
            "max_new_tokens": 8,
            "processors": 2,
            "answering": [],
            "cells": [],
            "switching": [],
        }
    )
    assert (
        "answers, one at a time" not in said
        and "lm-eval" not in said
        and "another assistant" not in said
    )
