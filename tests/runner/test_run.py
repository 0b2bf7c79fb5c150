"""The command line on a real study of a few steps, from the data file to the report."""

import json
from pathlib import Path

import pytest

from assistant_builder.arms import CELLS
from tests.commands import QUICK, command, record_of, refusal_of, set_words
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL


@pytest.mark.long
@pytest.mark.train
def test_run_from_file_to_report_and_run_again(bundled_models, tmp_path):
    # the browser test goes the way with a real one
    settings = {
        **QUICK,
        "model.base": tiny_base(tmp_path / "base"),
        "train.sample_answers": 3,
        "eval.primary_metric": "nll_per_token",
        "eval.margin": 0.03,
    }
    document = record_of(f"run {SMALL} --name tiny", *set_words(settings))
    assert document["state"] == "succeeded"
    assert [
        step["name"] for step in document["steps"]
    ] == "data data-embed train-lora train-qlora evaluate report".split()
    folder = Path(document["folder"])
    assert not (folder / "embedder").exists()  # nothing is looked up
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    report = json.loads(command("report tiny --format json").stdout)
    assert set(report["cells"]) == {name for name in CELLS if name not in ("QT", "QTM")}
    assert set(report["baselines"]) == {"copy", "retrieval"}
    assert report["tasks"]["ab_retention"]["cells"].keys() >= {"B16", "L16", "Q4"}
    assert len(report["fidelity"]["pairs"]) == 4
    assert report["flips"]["noise_floor"]["cells"].keys() == {"L16", "Q4"}
    headline = next(
        row
        for row in report["contrasts"]
        if (row["name"], row["metric"]) == ("Q4-L16", "nll_per_token")
    )
    cells = report["cells"]
    assert headline["delta"] == pytest.approx(
        cells["Q4"]["nll_per_token"] - cells["L16"]["nll_per_token"], abs=1e-12
    )
    assert report["verdict"]["outcome"] in ("no worse", "worse", "inconclusive")
    assert report["verdict"]["frozen"]["sha256"] and not report["verdict"]["frozen"]["changes"]
    assert (
        report["resources"]["qlora"]["base_bytes"] < 0.6 * report["resources"]["lora"]["base_bytes"]
    )
    html = Path(command("report tiny").stdout.strip())
    assert report["sentence"].split(":")[0] in html.read_text(encoding="utf-8")

    again = record_of("run tiny")
    assert again["state"] == "succeeded"
    untouched = {path for path, changed in written.items() if path.stat().st_mtime_ns == changed}
    assert {path.name for path in written.keys() - untouched} <= {"run.json"}

    line = refusal_of("run tiny --set train.rank=8")
    assert "train.rank: 4 -> 8" in line and "--redo" in line and "--name" in line
    assert record_of("status tiny") == again
    assert "data.max_heldout: 4 -> none" in refusal_of(f"run {SMALL} --name tiny")

    asked = command("ask tiny 'How much is the late fee?' --arm qlora --json")
    assert asked.stderr == ""  # nothing of the libraries
    answer = json.loads(asked.stdout)
    assert answer["answers"]["qlora"]["tokens"] > 0 and set(answer["answers"]) == {"qlora"}

    scored = {path: path.stat().st_mtime_ns for path in (folder / "evals").rglob("scores.json")}
    more = record_of("run tiny --set seeds=2")
    assert [step["name"] for step in more["steps"]][
        2:6
    ] == "train-lora train-qlora train-lora-2 train-qlora-2".split()
    # existing scores were reused
    assert {path: path.stat().st_mtime_ns for path in scored} == scored
    report = json.loads(command("report tiny --format json").stdout)
    assert [run["training_seed"] for run in report["seeds"]["runs"]] == [0, 1]
    assert len({run["L16"] for run in report["seeds"]["runs"]}) == 2 and report["seeds"]["spread"]
    again = more

    same = record_of("compare tiny tiny")
    assert {row["delta"] for row in same["contrasts"]} == {0.0}
    assert {verdict["outcome"] for verdict in same["verdicts"]} == {"inconclusive"}, (
        "four questions show nothing"
    )

    changed = record_of("run tiny --set eval.margin=0.5 --redo")
    before = {step["name"]: step["seconds"] for step in again["steps"]}
    after = {step["name"]: step["seconds"] for step in changed["steps"]}
    assert {name for name in after if after[name] != before[name]} == {"report"}
    frozen = json.loads(command("report tiny --format json").stdout)["verdict"]["frozen"]
    changed_after = {change["name"]: (change["was"], change["now"]) for change in frozen["changes"]}
    assert changed_after == {"margin": (0.03, 0.5), "seeds": (1, 2)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"colour,size\nred,3\nblue,4\n", "--set data.columns.question="),
        (bytes(range(256)) * 40, "encoding"),
        (b"question,answer\nWhat is it?,A thing.\n", "usable"),
    ],
)
def test_bad_files_are_refused_in_one_line_without_creating_a_study(home, content, says):
    file = home.parent / "pairs.csv"
    file.write_bytes(content)
    assert says in refusal_of("run", file, inside=True)
    assert not (home / "studies").exists() or not any((home / "studies").iterdir())


def test_unknown_models_names_and_settings_are_refused_in_one_line(home):
    for words, said in (
        (f"{SMALL} --set model.base=smollm9", "smollm2-135m-instruct"),
        ("nowhere", "no study named"),
        (f"{SMALL} --set train.rnk=8", "did you mean train.rank"),
        (f"{SMALL} --set model.compute_dtype=float32", "float32"),
        ("missing.csv", "no file"),
    ):
        assert said in refusal_of(f"run {words}", inside=True)
    command(f"run {SMALL} --set rank", ends=2, inside=True)
    assert not (home / "studies").exists() or not any((home / "studies").iterdir())


def test_data_check_exit_codes(home):
    document = record_of("data check", SMALL)
    assert document["columns"]["question"] == "question" and document["usable"] == 48
    one = home.parent / "one.csv"
    one.write_text("question,answer\nWhat is it?,A thing.\n", encoding="utf-8")
    bad = command("data check --json", one, ends=1)
    assert json.loads(bad.stdout)["usable"] == 1
    assert bad.stderr.count("\n") == 1


@pytest.mark.train
@pytest.mark.long
def test_a_run_with_both_approaches(bundled_models, tmp_path):
    settings = {
        **QUICK,
        "approaches": "grounded,memory",
        "model.base": tiny_base(tmp_path / "base"),
        "eval.cells": "B16,L16,Q4",
        "eval.noise_floor": False,
        "eval.fidelity": False,
        "eval.retention": False,
        "eval.primary_metric": "token_f1",
        "eval.margin": 0.05,
    }
    document = record_of(f"run {SMALL} --name both", *set_words(settings))
    assert (
        [step["name"] for step in document["steps"]]
        == """
        data data-embed train-lora train-qlora train-lora+memory train-qlora+memory evaluate
        report
    """.split()
    )
    folder = Path(document["folder"])
    assert (folder / "embedder").is_dir()
    report = json.loads(command("report both --format json").stdout)
    assert [
        row["name"] for row in report["approaches"]
    ] == "copy base+facts lora qlora lora+facts qlora+facts".split()
    assert report["recommended_approach"] in ("grounded", "memory")
    hashes = {
        json.loads((folder / "arms" / run / "summary.json").read_text(encoding="utf-8"))[
            "adapter_sha256"
        ]
        for run in ("lora", "qlora", "lora+memory", "qlora+memory")
    }
    assert len(hashes) == 4
    for approach in ("grounded", "memory"):
        asked = record_of(f"ask both 'When does it open?' --arm lora --approach {approach}")
        assert bool(asked["answers"]["lora"]["sources"]) == (approach == "grounded")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    talked = [path for path in written if "conversation" in json.loads(path.read_text("utf-8"))]
    assert sorted(path.parent.name for path in talked) == ["L16", "Q4"]  # of the grounded approach
    assert record_of("run both")["state"] == "succeeded"
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    # another held-out answer changes neither the index nor what the adapters saw
    assert not any(
        name.startswith("heldout")
        for name in json.loads(
            (folder / "arms" / "lora" / "status.json").read_text(encoding="utf-8")
        )["inputs"]
    )
