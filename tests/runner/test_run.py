"""The command line on a real study of a few steps, from the data file to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assistant_builder.arms import CELLS
from tests.export.tiny import tiny_base

CARDS = Path(__file__).resolve().parents[2] / "datasets_cards"
SMALL = CARDS / "thimble-row-library" / "data.csv"
QUICK = {
    "approaches": "memory",
    "formats.types": "[]",
    "train.max_steps": "2",
    "train.batch_size": "4",
    "train.micro_batch_size": "2",
    "train.evaluations": "1",
    "train.rank": "4",
    "data.max_heldout": "4",
    "eval.max_new_tokens": "8",
    "eval.bootstrap_resamples": "500",
    "eval.primary_metric": "nll_per_token",
    "eval.margin": "0.03",
}


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "assistant_builder", *words],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )


def refused(*words: str) -> str:
    """The error line of a refused command."""
    result = cli(*words)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.long
@pytest.mark.train
def test_run_from_file_to_report_and_run_again(bundled_models, tmp_path):
    # the browser test goes the way with a real one
    values = {**QUICK, "model.base": str(tiny_base(tmp_path / "base"))}
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    first = cli("run", str(SMALL), "--name", "tiny", *settings, "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["state"] == "succeeded"
    assert [
        step["name"] for step in document["steps"]
    ] == "data data-embed train-lora train-qlora evaluate report".split()
    folder = Path(document["folder"])
    assert not (folder / "embedder").exists()  # nothing is looked up
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    report = json.loads(cli("report", "tiny", "--format", "json").stdout)
    assert set(report["cells"]) == {name for name in CELLS if name not in ("QT", "QTM")}
    assert set(report["baselines"]) == {"copy", "retrieval"}
    assert report["identities"] and all(entry["error"] <= 1e-12 for entry in report["identities"])
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
    html = Path(cli("report", "tiny").stdout.strip())
    assert report["sentence"].split(":")[0] in html.read_text(encoding="utf-8")

    again = json.loads(cli("run", "tiny", "--json").stdout)
    assert again["state"] == "succeeded"
    untouched = {path for path, changed in written.items() if path.stat().st_mtime_ns == changed}
    assert {path.name for path in written.keys() - untouched} <= {"run.json"}

    line = refused("run", "tiny", "--set", "train.rank=8")
    assert "train.rank: 4 -> 8" in line and "--redo" in line and "--name" in line
    assert json.loads(cli("status", "tiny", "--json").stdout) == again
    assert "data.max_heldout: 4 -> none" in refused("run", str(SMALL), "--name", "tiny")

    asked = cli("ask", "tiny", "How much is the late fee?", "--arm", "qlora", "--json")
    assert asked.stderr == ""  # nothing of the libraries
    answer = json.loads(asked.stdout)
    assert answer["answers"]["qlora"]["tokens"] > 0 and set(answer["answers"]) == {"qlora"}

    scored = {path: path.stat().st_mtime_ns for path in (folder / "evals").rglob("scores.json")}
    more = json.loads(cli("run", "tiny", "--set", "seeds=2", "--json").stdout)
    assert [step["name"] for step in more["steps"]][
        2:6
    ] == "train-lora train-qlora train-lora-2 train-qlora-2".split()
    # existing scores were reused
    assert {path: path.stat().st_mtime_ns for path in scored} == scored
    report = json.loads(cli("report", "tiny", "--format", "json").stdout)
    assert [run["training_seed"] for run in report["seeds"]["runs"]] == [0, 1]
    assert len({run["L16"] for run in report["seeds"]["runs"]}) == 2 and report["seeds"]["spread"]
    again = more

    same = json.loads(cli("compare", "tiny", "tiny", "--json").stdout)
    assert {row["delta"] for row in same["contrasts"]} == {0.0}
    assert {verdict["outcome"] for verdict in same["verdicts"]} == {"inconclusive"}, (
        "four questions show nothing"
    )

    changed = cli("run", "tiny", "--set", "eval.margin=0.5", "--redo", "--json")
    assert changed.returncode == 0, changed.stderr
    before = {step["name"]: step["seconds"] for step in again["steps"]}
    after = {step["name"]: step["seconds"] for step in json.loads(changed.stdout)["steps"]}
    assert {name for name in after if after[name] != before[name]} == {"report"}
    frozen = json.loads(cli("report", "tiny", "--format", "json").stdout)["verdict"]["frozen"]
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
    assert says in refused("run", str(file))
    assert not (home / "studies").exists() or not any((home / "studies").iterdir())


@pytest.mark.long
def test_unknown_models_names_and_settings_are_refused_in_one_line(home):
    assert "smollm2-135m-instruct" in refused("run", str(SMALL), "--set", "model.base=smollm9")
    assert "no study named" in refused("run", "nowhere")
    assert "did you mean train.rank" in refused("run", str(SMALL), "--set", "train.rnk=8")
    assert "float32" in refused("run", str(SMALL), "--set", "model.compute_dtype=float32")
    assert "no file" in refused("run", "missing.csv")
    assert cli("run", str(SMALL), "--set", "rank").returncode == 2
    assert not (home / "studies").exists() or not any((home / "studies").iterdir())


def test_data_check_exit_codes(home):
    good = cli("data", "check", str(SMALL), "--json")
    assert good.returncode == 0
    document = json.loads(good.stdout)
    assert document["columns"]["question"] == "question" and document["usable"] == 48
    one = home.parent / "one.csv"
    one.write_text("question,answer\nWhat is it?,A thing.\n", encoding="utf-8")
    bad = cli("data", "check", str(one), "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["usable"] == 1
    assert bad.stderr.count("\n") == 1


@pytest.mark.train
@pytest.mark.long
def test_a_run_with_both_approaches(bundled_models, tmp_path):
    values = {
        **QUICK,
        "approaches": "grounded,memory",
        "model.base": str(tiny_base(tmp_path / "base")),
        "eval.cells": "B16,L16,Q4",
        "eval.noise_floor": "false",
        "eval.fidelity": "false",
        "eval.retention": "false",
        "eval.primary_metric": "token_f1",
        "eval.margin": "0.05",
    }
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    first = cli("run", str(SMALL), "--name", "both", *settings, "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert (
        [step["name"] for step in document["steps"]]
        == """
        data data-embed train-lora train-qlora train-lora+memory train-qlora+memory evaluate
        report
    """.split()
    )
    folder = Path(document["folder"])
    assert (folder / "embedder").is_dir()
    report = json.loads(cli("report", "both", "--format", "json").stdout)
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
        asked = cli(
            "ask", "both", "When does it open?", "--arm", "lora", "--approach", approach, "--json"
        )
        assert asked.returncode == 0, asked.stderr
        assert bool(json.loads(asked.stdout)["answers"]["lora"]["sources"]) == (
            approach == "grounded"
        )
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    assert json.loads(cli("run", "both", "--json").stdout)["state"] == "succeeded"
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    # another held-out answer changes neither the index nor what the adapters saw
    assert not any(
        name.startswith("heldout")
        for name in json.loads(
            (folder / "arms" / "lora" / "status.json").read_text(encoding="utf-8")
        )["inputs"]
    )
