"""Studies with one arm: steps and cells, and adding or removing an arm."""

from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.config import StudyConfig, load_config
from assistant_builder.errors import ChangedInputsError, ConfigError
from assistant_builder.runner import invalidation
from assistant_builder.runner.invalidation import (
    delete_stale_steps,
    first_stale_step,
    queue_if_stale,
    step_inputs,
)
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.study import Study
from tests.synthetic_study import (
    at_first_verdict,
    evaluated,
    new_study,
    reported,
    trained,
    with_data,
)

BOTH = ("data", "data-embed", "train-lora", "train-qlora", "evaluate", "report")
ALONE = ("data", "data-embed", "train-qlora", "evaluate", "report")


@pytest.fixture(autouse=True)
def same_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the hash of the base model by a constant."""
    monkeypatch.setattr(invalidation, "base_model_identity", lambda model: "f" * 64)


def recorded(study: Study) -> Study:
    """Record the present inputs of each finished step."""
    study.embedding_file.write_text('{"leaks": []}')
    for step in study.steps:
        study.write_step(replace(study.step(step), inputs=step_inputs(study, step)))
    return study


def finished(**changes: object) -> Study:
    return recorded(reported(evaluated(trained(with_data(new_study(**changes))))))


def test_arms_are_normalized_to_one_order():
    both = StudyConfig().with_changes({"arms": "[qlora, lora]"})
    assert both == StudyConfig() and both.arms == ["lora", "qlora"]
    for text in ("qlora", "[qlora]", "qlora,qlora"):
        assert StudyConfig().with_changes({"arms": text}).arms == ["qlora"]
    for text in ("[]", "full", "lora,full"):
        with pytest.raises(ConfigError, match="arms"):
            StudyConfig().with_changes({"arms": text})


def test_a_study_has_the_steps_of_its_arms():
    assert new_study("both").steps == BOTH
    assert new_study("alone", arms=["qlora"]).steps == ALONE
    assert new_study("seeds", arms=["qlora"], seeds=2).steps == tuple(
        "data data-embed train-qlora train-qlora-2 evaluate report".split()
    )


def test_cells_of_the_16_bit_base_require_the_lora_arm():
    config = StudyConfig()
    assert config.cells == config.eval.cells
    assert config.with_changes({"arms": "qlora"}).cells == ["B4", "Q4"]
    assert set(config.with_changes({"arms": "lora"}).cells) == set("B16 B4 L16 L4 LM LR".split())


def test_studies_without_the_arms_setting_do_not_become_stale():
    study = finished()
    path = study.folder / "study.yaml"
    lines = path.read_text().splitlines()
    at = lines.index("arms:")
    # the key and its two entries
    path.write_text("\n".join([*lines[:at], *lines[at + 3 :]]) + "\n")
    assert "\narms" not in path.read_text() and load_config(path) == study.config
    assert not any(key.endswith("arms") for step in study.steps for key in step_inputs(study, step))
    assert first_stale_step(study, redo=False) is None


def test_adding_an_arm_keeps_the_trained_arm_and_its_scores():
    study = finished(arms=["qlora"])
    open_or_create(study.name, name=None, changes={"arms": "lora,qlora"}, redo=False)
    assert study.steps == BOTH
    delete_stale_steps(study, redo=False)
    states = {step: study.step(step).state for step in study.steps}
    assert states["train-qlora"] == "succeeded" and states["train-lora"] == "queued"
    assert (study.cell_folder("Q4") / "scores.json").is_file()


def test_removing_an_arm_requires_redo():
    study = finished()
    with pytest.raises(ChangedInputsError, match="lora adapter"):
        open_or_create(study.name, name=None, changes={"arms": "qlora"}, redo=False)
    assert study.config.arms == ["lora", "qlora"]
    open_or_create(study.name, name=None, changes={"arms": "qlora"}, redo=True)
    delete_stale_steps(study, redo=True)
    assert study.steps == ALONE and study.step("train-qlora").state == "succeeded"
    assert study.step("evaluate").state == "queued"


def test_the_embedder_of_assistants_without_facts_is_not_trained():
    study = with_data(new_study(approaches=["memory"]))
    for approaches, read in (
        (["memory"], False),
        (["grounded"], True),
        (["grounded", "memory"], True),
    ):
        config = study.config.model_copy(update={"approaches": approaches})
        assert (
            "retrieval.train_embedder" in step_inputs(study, "data-embed", config=config)
        ) == read


def test_only_what_a_step_reads_of_looking_up_makes_it_stale():
    study = finished()

    def inputs(step: str, **changes: Any) -> dict[str, Any]:
        settings = {
            "approaches": ["grounded"],
            **{f"retrieval.{key}": value for key, value in changes.items()},
        }
        return step_inputs(study, step, config=study.config.with_changes(settings))

    for step in ("train-lora", "evaluate"):
        assert inputs(step) == inputs(step, sources_in_endpoint=True) != inputs(step, facts=2)
        assert not any(
            "retrieval" in key or "approaches" in key for key in step_inputs(study, step)
        )
    assert inputs("train-lora") == inputs("train-lora", false_declines=0.1)
    assert inputs("evaluate") != inputs("evaluate", false_declines=0.1)


def test_a_finished_study_of_an_earlier_release_stays_finished():
    study = finished()
    assert study.state == "succeeded" and not list(study.evals_folder.glob("*.verdict.json"))
    assert first_stale_step(study, redo=False) is None


def test_what_a_run_left_behind_its_first_verdict_is_kept_by_the_next_one():
    study = at_first_verdict(finished())
    scored = sorted(study.evals_folder.rglob("scores.json"))
    assert first_stale_step(study, redo=False) is None
    delete_stale_steps(study, redo=False)
    assert sorted(study.evals_folder.rglob("scores.json")) == scored
    assert study.first_verdict_seconds is not None and (study.folder / "report.json").is_file()


def test_a_first_report_goes_with_the_inputs_that_it_is_of():
    study = at_first_verdict(finished())
    study.write_step(replace(study.step("evaluate"), state="cancelled", inputs={"code": "0.1"}))
    assert queue_if_stale(study, "evaluate")
    assert not (study.folder / "report.json").exists() and study.first_verdict_seconds is None
    assert study.step("evaluate").state == "queued" and study.cell_folder("L16").is_dir()
