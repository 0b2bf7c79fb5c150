"""The parts of the endpoint that need no server."""

import os
import shutil
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from assistant_builder.atomic_io import write_json, write_text
from assistant_builder.chat.ask import MIN_CONTEXT, context_tokens
from assistant_builder.chat.client import ChatWorker
from assistant_builder.cli import app
from assistant_builder.config.serving import SERVING_BACKENDS, ServingConfig
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError, StudyError
from assistant_builder.inference.chunks import Sampling
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.retrieval.decline import FILE, NAMES, DeclineRule
from assistant_builder.serving.auth import API_KEY_VARIABLE, check_access, take_key
from assistant_builder.serving.engine import Engine, StopSequenceFilter
from assistant_builder.serving.registry import select_models
from assistant_builder.serving.schemas import ChatRequest
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version, publish
from tests.serving.conftest import LONGEST, limits, models
from tests.synthetic_study import done, new_study, trained, with_data


def with_adapters(name: str, **changes: object) -> Study:
    """A study with two trained arms, as far as files go."""
    study = trained(with_data(new_study(name, **changes)))
    for arm in ("lora", "qlora"):
        folder = study.arm_folder(arm) / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"")
    return study


# who is served


def test_a_study_brings_both_arms_and_its_name_means_the_better_one():
    with_adapters("library")
    with_adapters("ferries")
    models = select_models(["library", "ferries:lora"], lambda study: "qlora")
    assert models.ids == ["library-qlora", "library-lora", "ferries-lora"]
    assert models.aliases == {"library": "library-qlora", "ferries": "ferries-lora"}
    found = models.find("ferries")
    assert found is not None and found.arm == "lora" and found.created == 1_700_000_000
    assert models.find("ferries-qlora") is None
    assert select_models(["library:lora", "library"], lambda study: "lora").ids == [
        "library-lora",
        "library-qlora",
    ]


def test_what_cannot_be_served_is_refused():
    with pytest.raises(StudyError, match="no study named"):
        select_models(["nowhere"], lambda study: "qlora")
    study = with_adapters("library")
    with pytest.raises(ConfigError, match="'base' is not one of"):
        select_models(["library:base"], lambda study: "qlora")
    with_adapters("library-lora")
    with pytest.raises(ConfigError, match="two assistants .* 'library-lora'"):
        select_models(["library", "library-lora"], lambda study: "qlora")
    (study.arm_folder("lora") / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="lora assistant is not trained yet"):
        select_models(["library"], lambda study: "qlora")


# what is asked


def asked(*turns: tuple[str, str], **body: object) -> ChatRequest:
    messages = [
        {"role": role, "content": content} for role, content in turns or [("user", "hello")]
    ]
    return ChatRequest.model_validate({"model": "m", "messages": messages, **body})


def test_the_studys_system_prompt_stands_in_where_there_is_none():
    hello = Message("user", "hello")
    assert asked().conversation("Be brief.") == [Message("system", "Be brief."), hello]
    assert asked().conversation("") == [hello]
    own = asked(("developer", "Rhyme."), ("user", "hello"))
    assert own.conversation("Be brief.") == [Message("system", "Rhyme."), hello]


def test_answers_are_greedy_unless_the_request_says_otherwise():
    assert asked().sampling(300).temperature == 0 and asked().sampling(300).max_new_tokens == 300
    result = asked(
        temperature=0.5, top_p=0.9, seed=-1, max_tokens=7, max_completion_tokens=9
    ).sampling(300)
    assert result.temperature == 0.5
    assert result.top_p == 0.9
    assert result.seed == 2**32 - 1
    assert result.max_new_tokens == 9


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_a_text_is_cut_at_the_first_stop_however_it_comes(text, stops, steps):
    whole = text[
        : min([place for stop in stops if (place := text.find(stop)) >= 0], default=len(text))
    ]
    stop_filter, shown = StopSequenceFilter(stops), ""
    for end in sorted(step for step in steps if step < len(text)):
        shown += stop_filter.feed(text[:end], last=False)
        assert whole.startswith(shown)
        if stop_filter.cut:
            break
    else:
        shown += stop_filter.feed(text, last=True)
    assert shown == whole and stop_filter.cut == (len(whole) < len(text))


# who may ask


def test_other_machines_need_a_key():
    assert check_access(ServingConfig(), None) == []
    with pytest.raises(ConfigError, match=f"everyone who reaches 0.0.0.0.*{API_KEY_VARIABLE}"):
        check_access(ServingConfig(host="0.0.0.0"), None)
    (warning,) = check_access(ServingConfig(host="0.0.0.0"), "k" * 16)
    assert "unencrypted" in warning


def test_a_key_comes_from_the_environment_and_leaves_it(monkeypatch):
    assert take_key() is None
    monkeypatch.setenv(API_KEY_VARIABLE, " sixteen-letters! ")
    assert take_key() == "sixteen-letters!" and API_KEY_VARIABLE not in os.environ
    for wrong in ("short", "sixteen letters and spaces", "s\u00fcchzehn-zeichen-"):
        monkeypatch.setenv(API_KEY_VARIABLE, wrong)
        with pytest.raises(ConfigError, match="at least 16 characters"):
            take_key()


def test_a_key_comes_from_a_file_that_is_its_owners_alone(monkeypatch, tmp_path):
    file = tmp_path / "key"
    monkeypatch.setenv(f"{API_KEY_VARIABLE}_FILE", str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        take_key()
    file.write_text("sixteen-letters!\n", encoding="utf-8")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="other users of this machine can read"):
        take_key()
    file.chmod(0o600)
    assert take_key() == "sixteen-letters!"
    monkeypatch.setenv(API_KEY_VARIABLE, "another-key-of-the-variable")
    assert take_key() == "another-key-of-the-variable"


# the command


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["serve", *words])
    return done.exit_code, str(done.exception) if isinstance(
        done.exception, Exception
    ) else done.output


def test_the_command_refuses_before_anything_is_loaded():
    with_adapters("library")
    assert "no study named 'nowhere'" in run("nowhere")[1]
    assert "min_replicas=3 is more than max_replicas=2" in run("library", "--min-replicas", "3")[1]
    assert run("library", "--port", "70000")[0] == 2
    refused = run("library", "--backend", "moon")[1]
    assert "--backend moon: Value error, must be one of local, llamacpp, ray, vllm" in refused
    assert "--host : String should have" in run("library", "--host", "")[1]
    assert "everyone who reaches 0.0.0.0" in run("library", "--host", "0.0.0.0")[1]


# how much is read


def test_the_context_follows_from_the_studies_and_the_model():
    study = new_study("library", train__max_length=512)
    longer = new_study("longer", train__max_length=6000, eval__max_new_tokens=700)
    assert context_tokens(study, 131_072) == MIN_CONTEXT > 512 + 256
    assert context_tokens(longer, 131_072) == 6700
    short = new_study("short", train__max_length=6000, eval__max_new_tokens=64)
    assert context_tokens(short, 131_072) == 6000 + Sampling().max_new_tokens
    assert context_tokens(longer, 2048) == context_tokens(study, 2048) == 2048
    assert context_tokens(study, 131_072, 100_000) == 100_000
    assert context_tokens(longer, 8192, 1024) == 1024
    with pytest.raises(
        ConfigError,
        match="--context 9000 exceeds the context length of the base model .8192 tokens",
    ):
        context_tokens(study, 8192, 9000)


@pytest.mark.parametrize(
    ("config", "tokenizer", "length"),
    [
        ({"max_position_embeddings": 8192}, None, 8192),
        ({"n_positions": 1024}, {}, 1024),
        ({}, {}, 2048),
        ({"max_position_embeddings": 8192}, {"model_max_length": 2048}, 2048),
        ({"max_position_embeddings": 8192}, {"model_max_length": int(1e30)}, 8192),
        ({"max_position_embeddings": 8192}, {"model_max_length": 1e30}, 8192),
        ({"max_position_embeddings": 8192}, ["x"], 8192),
        ({"text_config": {"max_position_embeddings": 9}}, None, 9),
    ],
)
def test_what_a_model_reads(tmp_path, config, tokenizer, length):
    write_json(tmp_path / "config.json", config)
    if tokenizer is not None:
        write_json(tmp_path / "tokenizer_config.json", tokenizer)
    assert context_length(tmp_path) == length


def test_an_answer_ends_where_prompt_and_answer_fill_the_context(tmp_path):
    served = models(tmp_path)
    engine = Engine(served, dict.fromkeys(served.ids, limits()), 4, ChatWorker([]))
    for words, most in (
        (LONGEST - 2, 1),
        (LONGEST - 12, 11),
    ):  # with the study's "Be brief." before them
        request = asked(("user", "w " * words)).model_copy(update={"model": "library-lora"})
        assert anyio.run(engine.prepare, request).sampling.max_new_tokens == most
        request = asked(("user", "w " * words), max_tokens=1).model_copy(
            update={"model": "library-lora"}
        )
        assert anyio.run(engine.prepare, request).sampling.max_new_tokens == 1


@pytest.mark.parametrize(("gpus", "shown"), [(0.0, ""), (1.0, None)])
def test_replicas_without_gpu_request_see_no_gpu(tmp_path, gpus, shown):
    pytest.importorskip("ray.serve")
    from assistant_builder.serving.ray_serve import application

    options = application(
        models(tmp_path), ServingConfig(gpus=gpus), None
    )._bound_deployment.ray_actor_options
    assert options["runtime_env"]["env_vars"].get("CUDA_VISIBLE_DEVICES") == shown


def test_the_published_version_is_served_under_the_names_of_the_first_study():
    first, version = with_adapters("shop"), with_adapters("shop-v2")
    models = select_models(["shop"], lambda study: "lora")
    add_version(first, version)
    assert models.latest() == models and models.assistants[0].version == "shop-qlora"
    before = models.published
    publish(first, "shop-v2")
    assert models.published != before
    latest = models.latest()
    assert latest.ids == models.ids and latest.aliases == models.aliases
    assert {each.folder.name for each in latest.assistants} == {"shop-v2"}
    assert {each.root.name for each in latest.assistants} == {"shop"}
    assert (
        select_models(["shop-v2:lora"], lambda study: "lora").assistants[0].folder.name == "shop-v2"
    )


def test_a_rule_or_index_is_published_by_the_evaluation_that_made_it():
    study = with_adapters("hall", approaches=["grounded"])
    models = select_models(["hall"], lambda study: "lora")
    seen = [(models.published, models.latest() == models)]

    def changed(name: str, text: str) -> None:
        write_json(study.folder / name, {"rule": None, "of": text})
        seen.append((models.published, models.latest() == models))

    for name in ("retrieval/index.json", "arms/qlora/decline.json"):
        changed(name, "an evaluation that runs")
    assert set(seen) == {(seen[0][0], True)}
    done(study, "evaluate", 1.0)
    for name in ("arms/qlora/decline.json", "retrieval/index.json"):
        changed(name, "another evaluation")
    assert not any(same for _, same in seen[3:]) and len(set(seen)) == 3
    models = models.latest()
    done(study, "report", 1.0)
    assert models.latest() == models
    write_text(study.status_file("evaluate"), "damaged")
    assert models.latest().published == models.latest().published


def test_serve_warns_that_an_assistant_without_a_rule_declines_nothing(monkeypatch):
    started: list[Any] = []
    monkeypatch.setattr(
        "assistant_builder.cli.serve.SERVING_BACKENDS",
        {
            "local": replace(
                SERVING_BACKENDS["local"],
                start=lambda models, *words, **more: started.append(models),
            )
        },
    )
    study = with_adapters("hall", approaches=["grounded"])
    with_adapters("memory")

    def warnings() -> str:
        result = CliRunner().invoke(app, ["serve", "hall:lora", "memory"])
        assert result.exit_code == 0, result.output
        return result.stderr

    assert "warning: hall-lora declines no question: its study has no rule" in warnings()
    assert "memory-" not in warnings() and "'assistant-builder run hall' fits one" in warnings()
    done(study, "evaluate", 1.0)
    assert "hall-lora declines no question: its evaluation gave it no rule" in warnings()
    values = (0.0,) * len(NAMES)
    rule = DeclineRule(values, values, values, 0.0, 0.5, 0.04, True, 9, 0, 9, 9, "I was not told.")
    write_json(study.arm_folder("lora") / FILE, {"rule": rule.to_record()})
    assert warnings() == "" and len(started) == 5


def test_a_study_with_one_arm_brings_that_one_under_both_names():
    study = with_adapters("alone", arms=["qlora"])
    models = select_models(["alone"], lambda study: "lora")
    assert models.ids == ["alone-qlora"] and models.aliases == {"alone": "alone-qlora"}
    with pytest.raises(ModelError, match="trains qlora alone.*no lora assistant"):
        select_models(["alone:lora"], lambda study: "qlora")
    shutil.rmtree(study.arm_folder("qlora"))
    with pytest.raises(ModelError, match="qlora assistant is not trained yet"):
        select_models(["alone"], lambda study: "qlora")
