"""A sweep from its definition to its results, with made-up studies: the choice, the tests, what stops."""

import json
from typing import Any

import pytest
import yaml
from statsmodels.stats.multitest import multipletests

from assistant_builder.atomic_io import read_json, write_json, write_jsonl, write_text
from assistant_builder.errors import Cancelled, ConfigError, DataError, ModelError, StudyError
from assistant_builder.study import Study, studies_folder
from assistant_builder.sweep import open_sweep, run_sweep
from assistant_builder.sweep.spec import MOST_STUDIES, Sweep
from evals.study_compare import compare_studies
from tests.sweep.simulated_runs import Scenario, pretend, rows
from tests.synthetic_study import SMALL, new_study

RANKS = "train.rank=1,2,4,8"
FIXED = tuple(
    """
    data.heldout_fraction=0.5 eval.bootstrap_resamples=400 eval.primary_metric=nll_per_token
    eval.margin=0.03 eval.estimand=wordings
""".split()
)


def opened(*settings: str, name: str = "ranks", **more: Any) -> Sweep:
    return open_sweep(
        str(SMALL),
        name=name,
        settings=[*(settings or (RANKS,)), *FIXED],
        **more,
    )


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    return pretend(
        Scenario(validation={1: 1.3, 2: 1.1, 3: 0.9, 4: 1.2}, heldout={1: 0.5, 2: 0.0005, 4: 0.2}),
        monkeypatch,
    )


def test_the_choice_is_by_validation_and_the_others_are_tested_on_the_held_out(scenario):
    sweep = opened()
    record = run_sweep(sweep)
    assert record == read_json(sweep.folder / "sweep.json") and record["state"] == "succeeded"
    assert scenario.ran == [1, 2, 3, 4] and record["selected"] == "ranks-3"
    assert rows(record, "settings")[3] == {"train.rank": 4}
    assert rows(record, "validation_loss")[3] == pytest.approx(0.905)  # the mean of both arms
    tests = {(row["study"], row["cell"]): row for row in record["comparisons"]}
    assert tests.keys() == {
        (f"ranks-{number}", cell) for number in (1, 2, 4) for cell in ("L16", "Q4")
    }
    assert {
        number: {tests[f"ranks-{number}", cell]["outcome"] for cell in ("L16", "Q4")}
        for number in (1, 2, 4)
    } == {1: {"worse"}, 2: {"not told apart"}, 4: {"worse"}}
    adjusted = multipletests([row["p_value"] for row in record["comparisons"]], method="holm")[1]
    assert [row["p_value_holm"] for row in record["comparisons"]] == pytest.approx(list(adjusted))
    one = compare_studies(Study.open("ranks-3"), Study.open("ranks-1"))
    same = next(verdict for verdict in one["verdicts"] if verdict["cell"] == "Q4")
    row = tests["ranks-1", "Q4"]
    assert (row["delta"], row["p_value"]) == (same["delta"], same["p_value"])
    assert [row["ci_low"], row["ci_high"]] == same["ci"]
    assert row["delta"] == pytest.approx(
        rows(record, "heldout")[1]["Q4"] - rows(record, "heldout")[3]["Q4"]
    )
    assert (
        "ranks-3 (train.rank=4), 0.905 nats per token, the lowest of 4 finished studies"
        in record["sentence"]
    )
    assert (
        "2 of the 3 others are clearly worse; 1 of the 3 others is not clearly different"
        in record["sentence"]
    )
    assert "(Holm over 6 tests)" in record["sentence"] and "may be as good" in record["sentence"]


def test_one_arm_alone_can_decide(scenario):
    record = run_sweep(opened(arm="qlora"))
    assert {row["cell"] for row in record["comparisons"]} == {"Q4"}
    assert len(record["comparisons"]) == 3
    assert rows(record, "validation_loss")[3] == pytest.approx(0.91)
    assert "Selected by QLoRA's validation loss" in record["sentence"]
    assert "(Holm over 3 tests)" in record["sentence"]


def test_a_better_study_that_validation_missed_is_named_and_not_selected(scenario):
    scenario.heldout = {1: 0.5, 2: -0.3, 4: 0.5}
    record = run_sweep(opened())
    assert record["selected"] == "ranks-3"
    assert "Validation missed ranks-2" in record["sentence"]
    assert "too optimistic" in record["sentence"]


def test_studies_share_the_split_and_one_that_does_not_is_out(scenario):
    sweep = opened()
    run_sweep(sweep)
    hashes = [
        read_json(studies_folder() / f"ranks-{n}" / "data" / "split.json")["hashes"]
        for n in range(1, 5)
    ]
    assert hashes.count(hashes[0]) == 4
    split = studies_folder() / "ranks-4" / "data" / "split.json"
    write_json(split, {**read_json(split), "hashes": {**hashes[0], "heldout": "0" * 64}})
    record = run_sweep(sweep)
    assert rows(record, "state")[4] == "failed"
    assert "another split" in rows(record, "error")[4]["what"]
    assert "ranks-4" not in {row["study"] for row in record["comparisons"]}


def test_it_resumes_and_a_failed_study_does_not_end_it(scenario):
    scenario.failing, scenario.cancelled = {1}, {3}
    with pytest.raises(Cancelled, match="Run the same sweep again"):
        run_sweep(opened())
    record = read_json(opened().folder / "sweep.json")
    assert record["state"] == "cancelled" and record["selected"] == "ranks-2"
    assert list(rows(record, "state").values()) == ["failed", "succeeded", "cancelled", "queued"]
    assert rows(record, "error")[1]["what"] == "memory ran out"
    assert any("1 study failed" in note for note in record["notes"])
    scenario.failing, scenario.cancelled, scenario.ran = set(), set(), []
    record = run_sweep(opened())
    assert scenario.ran == [1, 3, 4]
    assert record["state"] == "succeeded"
    assert record["selected"] == "ranks-3"
    scenario.ran = []
    assert run_sweep(opened()) == record and scenario.ran == []


def test_what_was_begun_is_not_mixed_with_anything_else(scenario, tmp_path):
    sweep = opened()
    tree = yaml.safe_load((sweep.folder / "sweep.yaml").read_text())
    assert tree["sweep"] == {"train.rank": [1, 2, 4, 8]}
    assert tree["arm"] == "both"
    assert "rank" not in tree["study"]["train"] and tree["study"]["data"]["heldout_fraction"] == 0.5
    for settings, more, says in (
        (("train.rank=1,2,4,16",), {}, r"sweep.train.rank: \[1, 2, 4, 8\] -> \[1, 2, 4, 16\]"),
        ((RANKS, "train.epochs=1"), {}, r"train.epochs: 3.0 -> 1.0"),
        ((RANKS,), {"arm": "lora"}, r"arm: both -> lora"),
    ):
        with pytest.raises(StudyError, match=says + ".*--name NEW"):
            opened(*settings, **more)
    write_text(sweep.folder / "sweep.yaml", yaml.safe_dump({**tree, "prune": "median"}))
    assert opened(arm=None).arm == "both", "a file of an earlier version opens"
    other = tmp_path / "other.csv"
    other.write_bytes(SMALL.read_bytes() + b"\n")
    with pytest.raises(StudyError, match="data_sha256"):
        open_sweep(str(other), name="ranks", settings=[RANKS, *FIXED])
    (sweep.folder / "sweep.yaml").write_text("version: 7\n")
    with pytest.raises(StudyError, match="another version or is damaged"):
        opened()


def test_what_cannot_start_is_refused_and_leaves_nothing(home):
    new_study("ranks-2")
    with pytest.raises(
        StudyError, match=r"1 of the names of its 4 studies are in use \(ranks-2\).*--name NEW"
    ):
        opened()
    for settings, error in (
        (("train.rank=0,1",), ConfigError),
        ((RANKS, "model.base=nothing"), ModelError),
        ((",".join(["train.rank=1", *map(str, range(2, MOST_STUDIES + 2))]),), ConfigError),
    ):
        with pytest.raises(error):
            opened(*settings, name="other")
    with pytest.raises(ConfigError, match="no file"):
        open_sweep("missing.yaml", name=None, settings=[RANKS])
    empty = home.parent / "empty.csv"
    write_jsonl(empty, [])
    with pytest.raises(DataError):
        open_sweep(str(empty), name="other", settings=[RANKS])
    with pytest.raises(ConfigError, match="1 to 64"):
        opened(name="x" * 63)
    assert not (home / "sweeps").exists()


def test_one_process_runs_a_sweep(scenario):
    sweep = opened()
    with sweep.locked(), pytest.raises(StudyError, match="another process runs this sweep"):
        run_sweep(sweep)


def test_a_study_yaml_names_the_sweep(scenario, tmp_path):
    (tmp_path / "rows.csv").write_bytes(SMALL.read_bytes())
    (tmp_path / "study.yaml").write_text(
        "name: library\ndata: {source: rows.csv, heldout_fraction: 0.4}\n"
    )
    sweep = open_sweep(str(tmp_path / "study.yaml"), name=None, settings=[RANKS])
    assert sweep.name == "library"
    assert [trial.name for trial in sweep.trials][::3] == ["library-1", "library-4"]
    assert {trial.config.data.heldout_fraction for trial in sweep.trials} == {0.4}
    json.dumps(run_sweep(sweep))


def test_a_sweep_of_studies_with_one_arm_goes_by_that_arm(scenario):
    with pytest.raises(ConfigError, match="train qlora alone"):
        opened(RANKS, "arms=qlora", arm="lora")
    sweep = opened(RANKS, "arms=qlora")
    assert sweep.judges == ("qlora",)
    assert yaml.safe_load((sweep.folder / "sweep.yaml").read_text())["study"]["arms"] == ["qlora"]
    record = run_sweep(sweep)
    assert record["selected"] == "ranks-3"
    assert {row["cell"] for row in record["comparisons"]} == {"Q4"}
    assert set(rows(record, "heldout")[3]) == {"Q4"}
    with pytest.raises(ConfigError, match="arms cannot be swept"):
        opened("arms=lora,qlora", name="other")
