"""Models of any origin are judged by the decision of a study, and a run that stops goes on."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import assistant_builder as ab
from assistant_builder.atomic_io import read_json, read_jsonl, write_jsonl
from assistant_builder.errors import (
    AssistantBuilderError,
    ConfigError,
    DataError,
    EvaluationError,
    ModelError,
    StudyError,
)
from assistant_builder.inference import llamacpp
from assistant_builder.models import template_process
from evals.model_compare import endpoint, judgements_folder
from evals.model_compare.endpoint import EndpointCandidate
from tests.evals.model_compare.fake_endpoint import FakeEndpoint, answering
from tests.export.tiny import CHATML
from tests.http_server import running
from tests.models.hostile_base import ENDLESS, hostile_base
from tests.serving.conftest import Served, serve  # noqa: F401
from tests.tiny_gguf import write_tiny_gguf

needs_llamacpp = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="xllamacpp is not installed"
)
QUICK = {"eval.bootstrap_resamples": 400, "eval.max_new_tokens": 4}


def facts(count: int) -> dict[str, str]:
    """Questions and one-word answers."""
    return {f"What is the code of room {n}?": f"code {n * 7}" for n in range(count)}


def write_questions(path: Path, pairs: dict[str, str]) -> Path:
    rows = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs.items()]
    path.write_text("".join(rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "home"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are not tried again, and time out soon."""
    patience = endpoint.RetryPolicy(timeout_seconds=2.0, attempts=1, backoff_seconds=0.01)
    monkeypatch.setattr(EndpointCandidate, "patience", patience)
    monkeypatch.setattr(EndpointCandidate.__init__, "__defaults__", (patience,))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "rooms.jsonl", facts(60))


@pytest.fixture
def start() -> Iterator[Callable[..., FakeEndpoint]]:
    """Starts fake endpoints, which end with the test."""
    open_ones: list[Any] = []

    def begin(reply: Callable[[str, int], Any]) -> FakeEndpoint:
        server = FakeEndpoint(reply)
        context = running(server)
        context.__enter__()
        open_ones.append(context)
        return server

    yield begin
    for context in open_ones:
        context.__exit__(None, None, None)


def folder_of(name: str) -> Path:
    return judgements_folder() / name


def right(question: str) -> str:
    return facts(400).get(question, "I do not know.")


# two GGUF files


@needs_llamacpp
def test_the_same_file_twice_has_equal_losses_and_answers(tmp_path):
    path = write_tiny_gguf(tmp_path / "a.gguf")
    shutil.copy(path, tmp_path / "b.gguf")
    source = write_questions(tmp_path / "few.jsonl", facts(6))
    told: list[Any] = []
    judged = ab.judge(source, path, tmp_path / "b.gguf", on_event=told.append, **QUICK)
    report = judged.report
    assert not report["rests_on_answers"] and report["loss"] == "nll_per_token"
    # what a slot computes depends in the last digits on what the others compute with it
    assert max(abs(row["delta"]) for row in report["contrasts"]) < 1e-3
    first, second = report["candidates"]
    assert first["sha256"] == second["sha256"] and first["tensor_types"]
    assert report["declaration"]["declared"]["margin"] == 0.05  # exact match, by the answers
    assert report["declaration"]["declared"]["second_margin"] == 0.03  # the loss
    for ending in ("html", "md"):
        text = (judged.folder / f"report.{ending}").read_text(encoding="utf-8")
        assert judged.sentence in text.replace("&#39;", "'")
    assert "Content-Security-Policy" in judged._repr_html_()


@needs_llamacpp
def test_another_chat_template_is_found_before_scoring(tmp_path):
    other = CHATML.replace(
        "'<|im_start|>' + message['role']", "'<|im_start|>' + '  ' + message['role']"
    )
    assert other != CHATML
    one = write_tiny_gguf(tmp_path / "one.gguf")
    two = write_tiny_gguf(tmp_path / "two.gguf", template=other)
    source = write_questions(tmp_path / "few.jsonl", facts(4))
    told: list[str] = []
    report = ab.judge(
        source, one, two, on_event=lambda text: told.append(str(text)), **QUICK
    ).report
    assert "The chat templates of A and B differ on 4 questions" in told[0]  # before "A = …"
    assert report["prompts"][0]["what"] == "chat template"
    assert any("chat templates" in note for note in report["notes"])


@needs_llamacpp
def test_a_damaged_file_is_one_error_before_anything_is_scored(tmp_path, questions):
    good = write_tiny_gguf(tmp_path / "good.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"cut\.gguf: not a usable GGUF file: it is truncated"):
        ab.judge(questions, good, cut)


@needs_llamacpp
def test_forced_answers_have_the_probabilities_of_the_whole_vocabulary(tmp_path):
    import numpy as np

    with llamacpp.LlamaServer(write_tiny_gguf(tmp_path / "a.gguf"), context=256) as server:
        prompt, target = server.tokenize("Which key?"), server.tokenize_text("thé")
        found = server.loglikelihoods(prompt, target)
        assert len(found) == len(target) == 3  # the pair th, and the two bytes of é
        body = server._body(prompt, 1, True, llamacpp.GREEDY)
        ascii_token = server.tokenize_text("a")[0]
        body |= {"n_probs": 1000, "logit_bias": [[ascii_token, 1e9]]}
        (whole,) = server._post("/completion", body)["completion_probabilities"]
        listed = {each["id"]: each["logprob"] for each in whole["top_logprobs"]}
        assert np.logaddexp.reduce(list(listed.values())) == pytest.approx(0, abs=1e-4)
        assert found[0] == pytest.approx(listed[target[0]], abs=1e-4)


# endpoints


def test_endpoints_get_a_verdict_that_rests_on_answers(questions, start):
    good = start(answering(right))
    same = start(answering(lambda question: right(question).upper()))  # case does not count
    judged = ab.judge(questions, f"big@{good.endpoint}/v1", f"small@{same.endpoint}/v1", **QUICK)
    report = judged.report
    assert report["rests_on_answers"] and report["loss"] is None
    assert any("rests on answers alone" in note for note in report["notes"])
    assert [bound["metric"] for bound in report["verdicts"][0]["bounds"]] == [
        "exact_match",
        "token_f1",
        "false_decline",
    ]
    request = good.requests[0]
    assert (request["temperature"], request["seed"], request["model"]) == (0, 0, "big")
    assert request["max_tokens"] == report["sampling"]["max_tokens"] == 4


def test_a_model_that_answers_wrong_is_worse(questions, start):
    good, bad = start(answering(right)), start(answering(lambda question: "code 1"))
    judged = ab.judge(questions, f"a@{good.endpoint}", f"b@{bad.endpoint}", **QUICK)
    assert judged.outcomes == ["worse"]
    assert "is worse than A" in judged.sentence
    assert judged.verdicts[0]["advice"] == ""  # it is decided


def test_the_candidate_and_not_the_reference_is_judged(tmp_path, start):
    questions = write_questions(tmp_path / "many.jsonl", facts(120))
    good, bad = start(answering(right)), start(answering(lambda question: "code 1"))
    judged = ab.judge(questions, f"b@{bad.endpoint}", f"a@{good.endpoint}", **QUICK)
    assert judged.outcomes == ["no worse"]


def test_equal_models_are_no_worse_with_enough_questions(tmp_path, start):
    source = write_questions(tmp_path / "many.jsonl", facts(120))
    good = start(answering(right))
    judged = ab.judge(source, f"a@{good.endpoint}", f"b@{good.endpoint}", **QUICK)
    assert judged.outcomes == ["no worse"]


def test_errors_count_as_wrong_and_are_listed(questions, start, impatient):
    def sometimes(question: str, number: int) -> Any:
        return 500 if question.endswith(" 7?") else {"text": right(question)}

    good, flaky = start(answering(right)), start(sometimes)
    report = ab.judge(questions, f"a@{good.endpoint}", f"b@{flaky.endpoint}", **QUICK).report
    (error,) = report["candidates"][1]["errors"]
    assert error["row"] == 8 and "HTTP 500" in error["error"]
    wrong = next(item for item in report["items"] if item["row"] == 8)
    assert wrong["metrics"]["B"]["exact_match"] == 0 and wrong["metrics"]["B"]["false_decline"] == 0
    assert any("count as wrong" in note for note in report["notes"])


def test_an_endpoint_that_stops_keeps_what_was_scored_and_goes_on(questions, start, impatient):
    good = start(answering(right))
    broken = start(lambda question, number: 503 if number > 20 else {"text": right(question)})
    words = f"a@{good.endpoint}", f"b@{broken.endpoint}"
    with pytest.raises(EvaluationError, match=r"the endpoint does not answer \(HTTP 503") as error:
        ab.judge(questions, *words, name="run", **QUICK)
    assert "the same command continues from here" in str(error.value)
    folder = folder_of("run")
    kept = [line for line in read_jsonl(folder / "B.jsonl") if "error" not in line]
    assert len(kept) == 20 and not (folder / "report.json").exists()
    asked = len(good.requests)
    broken.reply = answering(right)
    judged = ab.judge(questions, *words, name="run", **QUICK)
    assert len(good.requests) == asked  # A is not asked again
    assert len(broken.requests) <= 20 + endpoint.GIVE_UP_AFTER + endpoint.AT_ONCE + 40
    assert not judged.report["candidates"][1]["errors"]


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (b"<html>hello</html>", "the reply is not a chat completion"),
        (b'data: {"choices"\n\n\xff\xfe', "the reply is not a chat completion"),
        (404, "HTTP 404: no such model"),
        (401, "HTTP 401"),
    ],
)
def test_what_is_no_endpoint_is_one_sentence(reply, what, questions, start, impatient):
    good, odd = start(answering(right)), start(lambda question, number: reply)
    with pytest.raises(EvaluationError, match="the endpoint does not answer") as error:
        ab.judge(questions, f"a@{good.endpoint}", f"b@{odd.endpoint}", name="run", **QUICK)
    assert what in str(error.value) and "\n" not in str(error.value)
    assert len(read_jsonl(folder_of("run") / "A.jsonl")) == 60


def test_nobody_listens(questions, impatient):
    with pytest.raises(EvaluationError, match="no connection"):
        ab.judge(questions, "a@http://127.0.0.1:9", "b@http://127.0.0.1:9")


def test_each_endpoint_gets_its_own_key_and_no_other(questions, start, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_KEY_A", "canary-a")
    one, two = start(answering(right)), start(answering(right))
    judged = ab.judge(questions, f"a@{one.endpoint}", f"b@{two.endpoint}", **QUICK)
    assert set(one.keys) == {"Bearer canary-a"} and set(two.keys) == {None}
    texts = [path.read_text(encoding="utf-8") for path in judged.folder.iterdir() if path.is_file()]
    assert not any("canary" in text for text in texts)


# logs


def lm_eval_line(question: str, answer: Any) -> dict[str, Any]:
    return {
        "doc_id": 0,
        "doc": {"question": question, "answer": "…"},
        "target": "…",
        "arguments": {"gen_args_0": {"arg_0": f"Question: {question}\nAnswer:", "arg_1": {}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
    }


def write_log(path: Path, answers: dict[str, Any]) -> Path:
    lines = [json.dumps(lm_eval_line(question, answer)) for question, answer in answers.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_logs_of_lm_eval_are_judged(tmp_path, questions):
    pairs = facts(60)
    good = write_log(tmp_path / "samples_a.jsonl", pairs)
    bad = write_log(tmp_path / "samples_b.jsonl", dict.fromkeys(pairs, "code 0"))
    judged = ab.judge(questions, good, bad, **QUICK)
    assert judged.outcomes == ["worse"] and judged.report["rests_on_answers"]


def test_answers_of_a_study_are_judged_as_they_were_scored(tmp_path, questions):
    for cell, right in (("L16", True), ("Q4", False)):
        lines = [
            {"item": str(n), "question": q, "prompt": [], "answer": a if right else "code 0"}
            for n, (q, a) in enumerate(facts(60).items())
        ]
        (tmp_path / cell).mkdir()
        write_jsonl(tmp_path / cell / "samples.jsonl", lines)
    logs = (tmp_path / "L16" / "samples.jsonl", tmp_path / "Q4" / "samples.jsonl")
    judged = ab.judge(questions, *logs, **QUICK)
    assert judged.outcomes == ["worse"] and "Q4/samples.jsonl" in judged.sentence


def test_logs_of_inspect_are_judged(tmp_path, questions):
    samples = [
        {"input": q, "output": {"choices": [{"message": {"content": a}}]}}
        for q, a in facts(60).items()
    ]
    plain, packed = tmp_path / "log.json", tmp_path / "log.eval"
    plain.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    with zipfile.ZipFile(packed, "w") as archive:
        for number, sample in enumerate(samples):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
    report = ab.judge(questions, plain, packed, **QUICK).report
    assert all(
        item["metrics"][letter]["exact_match"] for item in report["items"] for letter in "AB"
    )


def test_a_log_that_lacks_questions_or_answers_is_refused(tmp_path, questions):
    good = write_log(tmp_path / "samples_a.jsonl", facts(60))
    short = write_log(tmp_path / "samples_b.jsonl", facts(59))
    with pytest.raises(DataError, match="no answer to 1 of 60 questions, the first of row 60"):
        ab.judge(questions, good, short)
    scored = write_log(tmp_path / "samples_c.jsonl", dict.fromkeys(facts(60), [-1.5, False]))
    with pytest.raises(DataError, match="it is no log of generated answers"):
        ab.judge(questions, good, scored)


# bad input


def test_answers_beyond_any_limit_count_as_wrong(questions, start, impatient):
    def long(question: str, number: int) -> dict[str, str]:
        return {"text": "a." * 200_000} if number % 2 else {"text": right(question)}

    good, odd = start(answering(right)), start(long)
    judged = ab.judge(questions, f"a@{good.endpoint}", f"b@{odd.endpoint}", name="long", **QUICK)
    errors = judged.report["candidates"][1]["errors"]
    assert len(errors) == 30 and "longer than 4 tokens can be" in errors[0]["error"]


@pytest.mark.parametrize("odd", ["deep", "encrypted", "method", "deflate", "pipe", "long"])
def test_a_hostile_log_is_one_sentence(odd, tmp_path, questions):
    path = tmp_path / "b.eval"
    if odd == "pipe":
        os.mkfifo(path)
    elif odd == "long":
        path = write_log(tmp_path / "b.jsonl", dict.fromkeys(facts(60), "a." * 60_000))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("samples/1.json", "[" * 100_000 if odd == "deep" else "{}" * 500)
        data, name = bytearray(path.read_bytes()), b"samples/1.json"
        central = data.find(b"PK\x01\x02")
        if odd == "encrypted":
            data[6] |= 1
            data[central + 8] |= 1
        elif odd == "method":
            data[8] = data[central + 10] = 97
        elif odd == "deflate":
            start = data.find(name) + len(name)
            data[start : start + 6] = b"\xff" * 6
        path.write_bytes(data)
    good = write_log(tmp_path / "samples_a.jsonl", facts(60))
    with pytest.raises(DataError) as error:
        ab.judge(questions, good, path)
    assert error.value.remedy and "\n" not in str(error.value)


def test_a_template_of_somebody_else_has_limits(tmp_path, questions, monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 1.0)
    base = hostile_base(tmp_path / "base", template=ENDLESS)
    with pytest.raises(ModelError, match="took longer than 1 seconds"):
        ab.judge(questions, base, base)


def test_the_report_has_no_markup_of_others(tmp_path, questions):
    good = write_log(tmp_path / "samples_a.jsonl", facts(60))
    evil = "<img src=x onerror=alert(1)> [x](javascript:a) \x1b[2J"
    other = write_log(tmp_path / "samples_<b>.jsonl", dict.fromkeys(facts(60), evil))
    folder = ab.judge(questions, good, other, name="markup", **QUICK).folder
    text, page = (
        (folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html")
    )
    assert "<b>" not in text and "[x](" not in text
    assert not any("<img" in each or "\x1b" in each for each in (text, page))


def test_names_of_other_folders_and_missing_answers_are_refused(tmp_path, questions):
    logs = [write_log(tmp_path / f"samples_{name}.jsonl", facts(60)) for name in "ab"]
    for name in ("../x", "/tmp/x", "a/b", ".."):
        with pytest.raises(ConfigError, match="is no name of a comparison"):
            ab.judge(questions, *logs, name=name)
    ab.judge(questions, *logs, name="run", **QUICK)
    path = folder_of("run") / "A.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[1:]))
    with pytest.raises(StudyError, match="answers of A are missing"):
        ab.judge(questions, *logs, name="run", **QUICK)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["a.gguf"], "1 candidates are named"),
        (["a.gguf"] * 11, "11 candidates are named"),
        (["http://127.0.0.1:1/v1", "a.gguf"], "has no name of a model"),
        (["m@http://user:secret@host/v1", "a.gguf"], "must not contain a password"),
        (["a.gguf", "m@http://"], "is not MODEL@URL"),
        (["a.gguf", "m@http://[::1"], "is not MODEL@URL"),
        (["a.gguf", "m@http://host:port/v1"], "is not MODEL@URL"),
        (["a.gguf", "m@http://xn--/v1"], "is not MODEL@URL"),
        (["a.gguf", "m@http://host\n/v1"], "is not MODEL@URL"),
    ],
)
def test_candidates_that_are_none(words, what, questions):
    with pytest.raises(ConfigError, match=what) as error:
        ab.judge(questions, *words)
    assert "secret" not in str(error.value)


def test_names_of_no_file_are_one_sentence(questions):
    for word in ("x" * 5000, "~nobody-of-this-name/model", "owner/" + "x" * 5000):
        with pytest.raises(ModelError):
            ab.judge(questions, word, "b.gguf")


def test_pipes_are_refused_at_once(tmp_path, questions):
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="no regular file"):
        ab.judge(questions, tmp_path / "a.gguf", "b.gguf")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        ab.judge(questions, folder, "b.gguf")


def test_questions_without_answers_are_refused(tmp_path):
    path = tmp_path / "bare.csv"
    path.write_text("question,answer\nWhy?,\nHow?,\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        ab.judge(path, "a.gguf", "b.gguf")
    assert "0 usable questions" in str(error.value) and "row 1" in str(error.value)


def test_settings_that_are_not_about_an_evaluation_are_refused(questions):
    with pytest.raises(ConfigError, match=r"train\.epochs is no setting of a comparison"):
        ab.judge(questions, "a.gguf", "b.gguf", train={"epochs": 2})


def test_the_loss_cannot_decide_about_endpoints(questions, start):
    one = start(answering(right))
    with pytest.raises(ConfigError, match="the loss, which not every candidate gives"):
        ab.judge(questions, f"a@{one.endpoint}", f"b@{one.endpoint}",
                 **{"eval.primary_metric": "nll_per_token"})  # fmt: skip
    assert not one.requests


def test_a_declaration_that_was_changed_is_refused(questions, start):
    one = start(answering(right))
    words = f"a@{one.endpoint}", f"b@{one.endpoint}"
    judged = ab.judge(questions, *words, name="run", **QUICK)
    path = judged.folder / "judgement.json"
    record = read_json(path)
    record["declared"]["margin"] = 0.5
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(StudyError, match="its file was changed"):
        ab.judge(questions, *words, name="run", **QUICK)


def test_a_further_test_with_shared_questions_is_a_stricter_look(tmp_path, questions, start):
    one = start(answering(right))
    words = f"a@{one.endpoint}", f"b@{one.endpoint}"
    first = ab.judge(questions, *words, **QUICK).report
    more = write_questions(tmp_path / "more.jsonl", facts(90))
    second = ab.judge(more, *words, **QUICK).report
    looks = [report["declaration"]["declared"]["look"] for report in (first, second)]
    assert looks == [1, 2] and second["declaration"]["level"] == pytest.approx(0.975)


def test_several_candidates_share_the_error(questions, start):
    one = start(answering(right))
    words = [f"{name}@{one.endpoint}" for name in "abc"]
    report = ab.judge(questions, *words, **QUICK).report
    assert [verdict["cell"] for verdict in report["verdicts"]] == ["B", "C"]
    assert report["declaration"]["level"] == pytest.approx(0.975)


def test_every_error_has_a_remedy(questions):
    with pytest.raises(AssistantBuilderError) as error:
        ab.judge(questions, "a.gguf", "b.gguf")
    assert error.value.remedy
