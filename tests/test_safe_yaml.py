"""Settings that came from elsewhere: what YAML can do beyond names and values is refused, in a sentence."""

import pytest

from assistant_builder.config import StudyConfig, check_name, load_config
from assistant_builder.config.safe_yaml import MAX_CHARACTERS, YamlError, read_yaml
from assistant_builder.config.study_config import parse_config, read_value
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.study import Study
from tests.fuzz.targets import expect_sentence

LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "anchors and aliases"),
        ("a: &a [*a]", "anchors and aliases"),
        ("train: &t {epochs: 1}\n", "anchors and aliases"),
        ("name: !!python/object/apply:os.system ['touch /tmp/owned']", "tags such as"),
        ("name: !!binary aGk=", "tags such as"),
        ("train: !include /etc/passwd", "tags such as"),
        ("name: 2001-99-99", "cannot be read"),
        ("seeds: " + "9" * 5_000, "cannot be read"),
        ("seeds: 0x" + "f" * 5_000, "cannot be read"),
        ("version: 0" + "7" * 9_000, "cannot be read"),
        ("data: {columns: {question: 1" + ":59" * 9_000 + "}}", "cannot be read"),
        ("[" * 5_000, "nested too deeply|line 1"),
        ("a: [1, 2", "line [12]"),
        ("name: \0", "line|not allowed"),
        ("a: b\n" * MAX_CHARACTERS, "more than the limit of settings"),
    ],
)
def test_a_yaml_that_does_more_than_settings_need_is_refused(tmp_path, text, says):
    with pytest.raises(YamlError, match=says):
        read_yaml(text)
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    expect_sentence(caught.value)
    with pytest.raises(ConfigError) as caught:
        read_value("train.epochs", text)
    expect_sentence(caught.value)


def test_what_the_product_writes_it_reads():
    config = StudyConfig()
    assert parse_config(read_yaml(config.to_yaml())) == config


@pytest.mark.parametrize(
    "tree",
    [{"seeds": ["x" * 10**6] * 1_000}, {"x" * 10**6: 1}, {f"key{n}": n for n in range(5_000)}],
)
def test_a_huge_wrong_value_is_told_in_a_few_words(tree):
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    expect_sentence(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..",
        ".",
        "",
        ".hidden",
        "-rf",
        "a/b",
        "a\\b",
        "con",
        "NUL",
        "com1.txt",
        "lpt9",
        "a" * 300,
        "a\nb",
        "a\n",
        "a\0b",
        "a b",
        "a.",
        "ａ",
        "a\u202eb",
        "a\u200b",
        "%2e%2e",
        "~",
        "$HOME",
        "C:x",
        "a:b",
        "<img>",
        "é",
    ],
)
def test_a_name_that_could_leave_the_folder_or_harm_a_system_names_no_study(name, home):
    with pytest.raises(ValueError):
        check_name(name)
    with pytest.raises(StudyError) as caught:
        Study.open(name)
    assert len(str(caught.value)) < 2_000
    with pytest.raises(ConfigError):
        parse_config({"name": name})
    assert not home.exists()
