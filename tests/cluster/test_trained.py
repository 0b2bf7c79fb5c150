"""A tiny study on three nodes gives the bytes of a local run, even if a node and the run are killed."""

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses
from tests.cluster.conftest import Nodes, wait_until
from tests.export.tiny import tiny_base
from tests.fault_injection.study import copy_of, differences, outcome, run, small_study, start

Local = tuple[Path, str, dict[str, Any]]
pytestmark = [pytest.mark.train, pytest.mark.cluster]


@pytest.fixture(scope="module")
def local(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A home folder with the results of a local run, and the base model."""
    home = tmp_path_factory.mktemp("shared")
    (home / "models").symlink_to(model_cache / "models")
    base = str(tiny_base(home / "base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        study = small_study("local", base, eval__similarity=False)
        # with one thread, as many as a step has that asks a node for one processor
        code, output = run(study)
    assert code == 0, output
    wanted = outcome(study)
    assert {"lora", "qlora", "L16", "Q4", "verdict"} <= wanted.keys()
    return home, base, wanted


def test_three_nodes_give_the_bytes_of_one_machine(local, nodes, monkeypatch):
    home, base, wanted = local
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(home))
    study = small_study(
        "nodes", base, eval__similarity=False, executor__kind="ray", executor__address=nodes.address
    )
    code, output = run(study)
    assert code == 0, output
    assert differences(study, wanted) == []
    assert [study.step(step).state for step in ("score-1", "score-2")] == ["succeeded"] * 2
    assert study.step("train-lora").node
    assert study.step("train-lora").node != study.step("train-qlora").node


def test_a_lost_node_and_a_killed_run_do_not_change_the_bytes(local, nodes, monkeypatch):
    home, _, wanted = local
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(home))
    assert strike(Study.open("local"), nodes, wanted) == []


def strike(done: Study, nodes: Nodes, wanted: dict[str, Any]) -> list[str]:
    """Train a finished study again on the nodes, kill its run and then a node; return the differences."""
    study = copy_of(done, "struck", without=("report", "evaluate", "train-qlora", "train-lora"))
    allow_addresses([nodes.address])
    study.write_config(
        study.config.with_changes({"executor": "ray", "executor.address": nodes.address})
    )
    killed = start(study)

    def trains_elsewhere() -> str | None:
        for step in ("train-lora", "train-qlora"):
            record, progress = study.step(step), study.progress(step)
            elsewhere = any(node.node_id[:8] in (record.node or "") for node in nodes.others)
            if (
                record.state == "running"
                and elsewhere
                and progress
                and 2 <= progress.done < progress.total
            ):
                return record.node
        return None

    node = wait_until(trains_elsewhere, 800)
    killed.kill()
    killed.communicate()
    nodes.lose(node)
    code, output = run(study)
    assert code == 0, output
    assert node not in (study.step("train-lora").node, study.step("train-qlora").node)
    return differences(study, wanted)
