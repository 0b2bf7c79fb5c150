"""One split for all: what a study takes from the first, and when it makes its own."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from assistant_builder.files import file_hash, write_json
from assistant_builder.jobs.integrity import damaged_outputs
from assistant_builder.jobs.starting import enter
from assistant_builder.jobs.steps import step_inputs
from assistant_builder.steps import StepRecord
from assistant_builder.study import Study
from evals.sweep import open_sweep
from evals.sweep.defining import Sweep
from evals.sweep.sharing import take_split
from tests.fabricated import SMALL, with_data

DATA = ("train.jsonl", "validation.jsonl", "heldout.jsonl", "rejected.jsonl", "findings.json", "split.json")


def mark(study: Study, step: str, names: Iterable[str]) -> None:
    outputs = {f"data/{name}": file_hash(study.folder / "data" / name) for name in names}
    study.write_step(StepRecord(step, "succeeded", step_inputs(study, step), seconds=7.0, outputs=outputs))


@pytest.fixture
def sweep() -> Sweep:
    """A sweep of three studies, the first with its split made."""
    sweep = open_sweep(str(SMALL), name="one_more", settings=["train.rank=1,2,4"], prune="off")
    first = with_data(enter(sweep.trials[0].config, sweep.data))
    mark(first, "data", DATA)
    write_json(first.embedding_file, {"threshold": 0.95, "removed": True, "leaks": []})
    write_json(first.folder / "provenance.json", {"python": "3.11"})
    mark(first, "data-embed", ["embedding.json"])
    return sweep


def test_the_others_take_the_split_as_it_was_frozen(sweep: Sweep) -> None:
    first, study = sweep.study(sweep.trials[0]), enter(sweep.trials[1].config, sweep.data)
    assert first is not None
    take_split(sweep, study)
    for name in (*DATA, "embedding.json"):
        assert (study.folder / "data" / name).read_bytes() == (first.folder / "data" / name).read_bytes()
    for step in ("data", "data-embed"):
        record = study.step(step)
        assert record.state == "succeeded" and record.seconds == 0 and not damaged_outputs(study, record)
        assert record.inputs == step_inputs(study, step), "so that running the study keeps it"
    card = (study.folder / "data" / "card.md").read_text()
    assert "# one\\_more-2\n" in card and "pretty_name: one_more-2" in card and "more-1" not in card
    assert (study.folder / "provenance.json").is_file()
    assert study.template_date == first.template_date and (study.folder / "template_date.json").is_file()


def test_what_would_be_made_from_other_inputs_is_not_taken(sweep: Sweep) -> None:
    study = enter(sweep.trials[1].config.with_changes({"data.seed": 5}), sweep.data)
    take_split(sweep, study)
    assert study.step("data").state == "queued" and not study.split_file("heldout").exists()


def test_a_damaged_split_is_not_passed_on_and_a_begun_one_not_overwritten(sweep: Sweep) -> None:
    first, study = sweep.study(sweep.trials[0]), enter(sweep.trials[1].config, sweep.data)
    assert first is not None
    study.write_step(StepRecord("data", "failed"))
    take_split(sweep, study)
    assert study.step("data").state == "failed"
    first.split_file("train").write_text("")
    other = enter(sweep.trials[2].config, sweep.data)
    take_split(sweep, other)
    assert other.step("data").state == "queued"
