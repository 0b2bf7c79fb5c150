"""What ``--set key=a,b`` stands for, and what is refused before anything starts."""

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError
from assistant_builder.sweep.spec import (
    MOST_STUDIES,
    Trial,
    combinations,
    label,
    read_grid,
    split_values,
)

BASE = StudyConfig().with_changes({"name": "grid"})


def trials(*settings: str) -> list[Trial]:
    return combinations(BASE, read_grid(settings))


def refused(*settings: str) -> str:
    with pytest.raises(ConfigError) as error:
        trials(*settings)
    return str(error.value)


def test_every_combination_is_a_study_of_its_own():
    found = trials("train.rank=8,16,64", "train.learning_rate=1e-4,2e-4", "train.epochs=2")
    assert [trial.name for trial in found] == [f"grid-{number}" for number in range(1, 7)]
    assert [tuple(trial.settings.values()) for trial in found] == [
        (8, 1e-4),
        (8, 2e-4),
        (16, 1e-4),
        (16, 2e-4),
        (64, 1e-4),
        (64, 2e-4),
    ]
    assert {trial.config.train.epochs for trial in found} == {2.0}
    assert found[1].config.train.learning_rate == 2e-4 and found[1].config.train.rank == 8
    assert label(found[1].settings) == "train.rank=8, train.learning_rate=0.0002"


def test_commas_within_brackets_and_quotes_do_not_divide():
    key = "train.target_modules"
    assert split_values(key, "all-linear,[q_proj, v_proj]") == ("all-linear", "q_proj, v_proj")
    assert split_values("train.rank", "8, 16") == ("8", "16")
    assert split_values("eval.cells", "[Q4,L16]") == ("[Q4,L16]",)
    assert split_values("data.system", "It's short, and kind") == ("It's short", "and kind")
    for text in (
        'all-linear,"q_proj,v_proj"',
        "all-linear,'q_proj,v_proj'",
        "all-linear,[q_proj,v_proj]",
    ):
        assert [trial.settings[key] for trial in trials(f"{key}={text}")] == [
            "all-linear",
            "q_proj,v_proj",
        ]


def test_all_problems_are_reported_together():
    said = refused("train.rank=0,8", "train.learning_rate=1e-4,fast", "train.epochs=0")
    assert all(
        key in said for key in ("train.rank=0", "train.learning_rate='fast'", "train.epochs=0")
    )
    assert said.count("train.rank=0") == 1
    said = refused("train.rnk=8,16", "train.rate=1,2")
    assert "train.rnk: no such setting (did you mean train.rank?)" in said and "train.rate" in said
    said = refused(
        "data.seed=0,1",
        "eval.margin=0.1,0.2",
        "seeds=1,2",
        "model.base=a,b",
        "train.max_length=64,128",
    )
    assert all(
        key in said
        for key in ("data.seed", "eval.margin", "seeds", "model.base", "train.max_length")
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.rank"], "'train.rank' is not KEY=VALUE"),
        (["train.rank="], "'train.rank=' is not KEY=VALUE"),
        (["train.rank=8,,16"], "an empty value"),
        (["train.rank=8,"], "an empty value"),
        (
            ["train.rank=8", "train.rank=16"],
            "train.rank is given twice: write --set train.rank=8,16",
        ),
        (["train.rank=8"], "no setting has several values"),
        ([], "no setting has several values"),
        (["train.rank=8,16,8"], "train.rank=8 is given twice"),
        (["train.learning_rate=1e-4,0.0001"], "train.learning_rate=0.0001 is given twice"),
        (
            ["train.preset=balanced,custom"],
            "train.preset=balanced and train.preset=custom are the same study",
        ),
        (
            ["train.batch_size=16,12", "train.micro_batch_size=8"],
            "batch_size (12) must be a multiple",
        ),
        (["eval.cells=Q4,L16"], "brackets or quotes"),
    ],
)
def test_what_is_refused(settings, says):
    assert says in refused(*settings)


def test_a_combination_may_hold_what_its_values_alone_could_not():
    assert len(trials("train.batch_size=12,24", "train.micro_batch_size=4,6")) == 4


def test_too_many_studies_are_counted_and_refused():
    many = ",".join(str(rank) for rank in range(1, 52))
    said = refused(f"train.rank={many}", "train.epochs=1,2")
    assert f"51 × 2 = 102 studies, and a sweep has {MOST_STUDIES} at most" in said
