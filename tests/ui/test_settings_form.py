"""Settings on the page: every field of the config has a component, and every value survives the round trip."""

import re
from typing import Any

import pytest
import yaml

from assistant_builder.config import (
    StudyConfig,
    parse_config,
)
from assistant_builder.errors import ConfigError
from assistant_builder.ui.data.tab import DataTab
from assistant_builder.ui.settings_form import (
    OptionForm,
    get_value,
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
    "train.allow_low_memory": True,
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
def test_every_value_survives_gradio(config):
    form = OptionForm({"model.base": [("Small", "smollm2-135m-instruct")]})
    inside_blocks(lambda: form.show(study_options()))
    values = form.values(config)
    sent = {part: part.preprocess(part.postprocess(value)) for part, value in values.items()}
    assert form.read(sent, StudyConfig()) == config


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
