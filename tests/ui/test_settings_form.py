"""Settings on the page: every field of the config has a component, and every value survives the round trip."""

import re
from typing import Any

import pytest
import yaml

from assistant_builder.config import (
    StudyConfig,
    option_fields,
    parse_config,
)
from assistant_builder.errors import ConfigError
from assistant_builder.ui.data.tab import DataTab
from assistant_builder.ui.settings_form import (
    HIDDEN_KEYS,
    OptionForm,
    bounds_text,
    flat,
    get_value,
    make_component,
    number_step,
    read_form,
    study_options,
)
from assistant_builder.ui.train.settings import FIXED_KEYS
from assistant_builder.ui.train.tab import TrainTab
from tests.ui.blocks import inside_blocks

CHANGED: dict[str, Any] = {
    "name": "other-name",
    "data.source": "pairs.jsonl",
    "data.columns": {"group": "focus", "question": "a = b, c"},
    "data.system": "You are: terse {really}.\nSay 'no'.",
    "data.heldout_fraction": 0.35,
    "data.max_train": 120,
    "data.max_heldout": 40,
    "data.remove_leaks": "never",
    "model.base": "someone/some-model",
    "model.revision": "main",
    "model.compute_dtype": "bfloat16",
    "train.preset": "custom",
    "train.rank": 7,
    "train.learning_rate": 3.3e-5,
    "train.max_steps": 9,
    "train.early_stopping": True,
    "train.target_modules": "q_proj, v_proj",
    "eval.cells": ["B16", "L16", "Q4", "L4"],
    "eval.primary_metric": "token_f1",
    "eval.tasks": ["hellaswag", "arc_easy"],
}


def changed_config() -> StudyConfig:
    tree = StudyConfig().model_dump(mode="json")
    for key, value in CHANGED.items():
        node = tree
        *parents, leaf = key.split(".")
        for part in parents:
            node = node[part]
        node[leaf] = value
    return StudyConfig.model_validate(tree)


def test_every_option_of_the_config_is_described():
    options = study_options()
    assert set(options) == set(option_fields()) - HIDDEN_KEYS
    for option in options.values():
        assert option.title and option.help
        assert option.kind not in ("choice", "choices") or option.choices


def test_every_option_of_the_config_is_on_the_page():
    train, data = inside_blocks(lambda: (TrainTab(), DataTab()))
    shown = set(train.form.components)
    assert shown == set(study_options()) - {"name", "title", *FIXED_KEYS}
    assert set(data.new.upload.form.components) == {
        key
        for key in study_options()
        if key.startswith("data.") and key not in ("data.source", "data.columns")
    }


@pytest.mark.parametrize("config", [StudyConfig(), changed_config()], ids=["defaults", "changed"])
def test_every_value_survives_the_form(config):
    shown = {
        key: option.to_widget(get_value(config, key)) for key, option in study_options().items()
    }
    assert read_form(shown, config) == config
    assert read_form(shown, StudyConfig()) == config


@pytest.mark.parametrize("config", [StudyConfig(), changed_config()], ids=["defaults", "changed"])
def test_every_value_survives_gradio(config):
    form = OptionForm({"model.base": [("Small", "smollm2-135m-instruct")]})
    inside_blocks(lambda: form.show(study_options()))
    values = form.values(config)
    sent = {part: part.preprocess(part.postprocess(value)) for part, value in values.items()}
    assert form.read(sent, StudyConfig()) == config


def test_components_start_at_the_defaults_of_the_config():
    options = study_options()
    shown = inside_blocks(lambda: {key: make_component(option) for key, option in options.items()})
    for key, option in options.items():
        assert shown[key].value == option.to_widget(option.default), key
        assert shown[key].label == option.title


def test_all_problems_are_reported_together():
    shown = {
        "train.rank": 0,
        "train.epochs": None,
        "data.heldout_fraction": 2,
        "train.batch_size": 2.5,
    }
    with pytest.raises(ConfigError) as caught:
        read_form(shown, StudyConfig())
    assert all(key in str(caught.value.what) for key in shown)


def test_a_whole_float_is_accepted_as_an_integer():
    assert read_form({"train.rank": 8.0, "data.max_train": "50"}, StudyConfig()).train.rank == 8
    with pytest.raises(ConfigError, match="max_train"):
        read_form({"data.max_train": "many"}, StudyConfig())


@pytest.mark.parametrize("key", ["train.max_length", "eval.max_new_tokens"])
def test_a_limit_is_a_number_or_follows_the_data(key):
    config, option = StudyConfig(), study_options()[key]
    assert get_value(config, key) == option.to_widget("auto") == "auto" and "auto: " in option.help
    for shown, value in (
        ("256", 256),
        (" 300 ", 300),
        (512, 512),
        ("auto", "auto"),
        ("AUTO", "auto"),
        ("", "auto"),
    ):
        found = read_form({key: shown}, config.with_changes({key: 400}))
        assert get_value(found, key) == value
        assert parse_config(yaml.safe_load(found.to_yaml())) == found
    for wrong in ("many", "0"):
        with pytest.raises(
            ConfigError, match=rf"{re.escape(key)}='?{wrong}.*, or 'auto'"
        ) as refused:
            read_form({key: wrong}, config)
        assert str(refused.value).count(key) == 1


def test_unchanged_values_are_kept():
    config = StudyConfig().with_changes({"data.system": "''"})
    assert config.data.system is not None
    assert read_form({"data.system": ""}, config).data.system == config.data.system


def test_bounds_are_described_in_words():
    fields = {key: field for key, (field, _) in option_fields().items()}
    assert bounds_text(fields["data.heldout_fraction"]) == "above 0, below 0.9"
    assert bounds_text(fields["train.rank"]) == "at least 1, at most 1024"
    assert bounds_text(fields["model.base"]) == ""
    assert "Above 0, below 0.9." in study_options()["data.heldout_fraction"].help


def test_the_step_of_a_number_depends_on_its_default():
    options = study_options()
    assert number_step(options["train.learning_rate"]) == pytest.approx(1e-4)
    assert number_step(options["train.weight_decay"]) == 0.01
    assert number_step(options["train.rank"]) == 1


def test_flat_names_every_option():
    assert list(flat(StudyConfig())) == list(study_options())
