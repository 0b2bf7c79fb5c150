"""Options have one source, and every problem of a config is reported together."""

import pytest
import yaml

from assistant_builder.config import PRESETS, StudyConfig, load_config, option_fields, parse_config
from assistant_builder.errors import ConfigError


def test_every_option_has_a_title_a_help_text_and_a_place_in_the_yaml():
    tree = yaml.safe_load(StudyConfig().to_yaml())
    for key, (field, default) in option_fields().items():
        node = tree
        for part in key.split("."):
            node = node[part]
        assert node == default or list(node) == list(default), key
        if key != "version":
            assert (
                field.title
                and field.description
                and field.description.rstrip().endswith((".", ")"))
            ), key


def test_a_config_survives_yaml(tmp_path):
    config = StudyConfig(name="trip").with_changes(
        {
            "train.learning_rate": "1e-4",
            "data.columns.group": "focus",
            "eval.cells": "B16,Q4",
            "data.system": "007",
            "train.gradient_checkpointing": "on",
            "data.max_train": "400",
            "train.allow_low_memory": "true",
        }
    )
    assert config.train.learning_rate == 1e-4 and config.data.columns == {"group": "focus"}
    assert config.eval.cells == ["B16", "Q4"]
    assert config.train.gradient_checkpointing == "on"  # a boolean in YAML 1.1
    assert config.data.system == "007"
    assert config.data.max_train == 400
    assert config.train.allow_low_memory
    path = tmp_path / "study.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path) == config
    assert config.with_changes({"data.max_train": "null"}).data.max_train is None


def test_removed_settings_are_ignored_in_a_stored_study_and_named_in_a_new_one(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "train: {early_stopping: true, patience: 3, kernels: liger, rank: 8}\n"
        "retrieval: {stop_if_broken: true}"
    )
    assert load_config(path, absent={}) == StudyConfig().with_changes({"train.rank": 8})
    with pytest.raises(ConfigError, match="train.early_stopping was removed: train.stop_loss ends"):
        load_config(path)
    with pytest.raises(ConfigError, match="train.patience was removed"):
        StudyConfig().with_changes({"train.patience": 1})


def test_a_preset_brings_its_values_and_explicit_ones_win():
    quick = StudyConfig().with_changes({"train.preset": "quick", "train.rank": "64"}).train
    assert quick.epochs == PRESETS["quick"]["epochs"] and quick.rank == 64
    for name, values in PRESETS.items():
        train = StudyConfig().with_changes({"train.preset": name}).train
        assert {key: getattr(train, key) for key in values} == values
    defaults = StudyConfig().train
    assert {key: getattr(defaults, key) for key in PRESETS["balanced"]} == PRESETS["balanced"]


def test_all_problems_are_told_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as unknown:
        StudyConfig().with_changes({"train.rnk": "3", "rank": "3"})
    assert "train.rnk" in str(unknown.value) and "did you mean train.rank" in str(unknown.value)
    with pytest.raises(ConfigError) as wrong:
        parse_config({"train": {"rank": "x", "epochs": -1}, "model": {"bse": "y"}})
    message = str(wrong.value)
    assert "train.rank" in message and "train.epochs" in message and "model.bse" in message
    with pytest.raises(ConfigError, match="micro_batch_size"):
        StudyConfig().with_changes({"train.batch_size": "10", "train.micro_batch_size": "4"})


def test_float32_compute_has_to_be_asked_for_twice():
    with pytest.raises(ConfigError, match="allow_float32_compute"):
        StudyConfig().with_changes({"model.compute_dtype": "float32"})
    changed = StudyConfig().with_changes(
        {"model.compute_dtype": "float32", "model.allow_float32_compute": "true"}
    )
    assert changed.model.compute_dtype == "float32"


@pytest.mark.parametrize(
    "name", ["../x", "con", "a" * 65, "", "UPPER", "with space", "nul.txt", ".hidden", "a\nb"]
)
def test_names_that_could_harm_are_refused(name):
    with pytest.raises(ConfigError):
        parse_config({"name": name})


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "train: [", "!!python/object/apply:os.system ['true']", ""]
)
def test_a_yaml_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("judge.example/v1", "is not a URL"),
        ("ftp://judge.example", "is not a URL"),
        ("http://", "is not a URL"),
        ("http://[::1/v1", "is not a URL"),
        ("http://anna:secret@judge.example/v1", "ASSISTANT_BUILDER_JUDGE_KEY"),
        ("http://judge.example/v1?key=secret", "ASSISTANT_BUILDER_JUDGE_KEY"),
        ("http://judge.example/v1", "judge_model"),
    ],
)
def test_a_judge_needs_an_address_without_secrets_and_a_model(url, says):
    with pytest.raises(ConfigError, match=says):
        StudyConfig().with_changes({"eval.judge_url": url})
    assert StudyConfig().with_changes(
        {"eval.judge_url": "http://judge.example/v1", "eval.judge_model": "m"}
    )


@pytest.mark.parametrize(
    ("types", "problem"),
    [
        (["Q9"], "'Q9' is no type"),
        (["q8_0"], "'q8_0' is no type"),
        ([""], "'' is no type"),
        (["Q8_0", " "], "' ' is"),
        ([8], "8 is no type"),
        ([None], "None is no type"),
        ([True, "Q8_0"], "True is no type"),
        ([["Q8_0"]], "['Q8_0']"),
        ([{"Q8_0": 1}], "{'Q8_0': 1} is no type"),
        (["Q8_0", "Q4_0", "Q8_0"], "Q8_0 occurs twice"),
        ("Q8_0", "should be"),
        (None, "should be a list"),
        ({"Q8_0": True}, "should be a list"),
        (["x" * 10_000], "is no type"),
        ([f"Q{number}" for number in range(10_000)], "'Q0' is no type"),
        (["Q8_0\nQ4_0"], "is no type"),
    ],
)
def test_types_of_gguf_files_that_cannot_be_are_refused(types, problem):
    with pytest.raises(ConfigError) as caught:
        parse_config({"formats": {"types": types}})
    message = str(caught.value)
    assert "formats.types" in message
    assert problem in message
    assert "\n" not in message
    assert len(message) < 600
    assert (
        "a list of BF16, Q8_0, Q6_K, Q5_1, Q5_K_M, Q4_1, Q4_K_M, Q4_0, Q3_K_M, each at most once"
        in message
    )


def test_types_of_gguf_files_are_read_from_the_command_line():
    for text, expected in (
        ("Q4_0,BF16", ["BF16", "Q4_0"]),
        ("Q4_0", ["Q4_0"]),
        ("[]", []),
        ("[Q8_0]", ["Q8_0"]),
    ):
        assert StudyConfig().with_changes({"formats.types": text}).formats.types == expected
    for text in ("Q4_0,Q4_0", "on", "8", "{}", ""):
        with pytest.raises(ConfigError, match="formats.types"):
            StudyConfig().with_changes({"formats.types": text})
