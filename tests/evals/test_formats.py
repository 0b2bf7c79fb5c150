"""The step that writes and scores GGUF files, with a scripted llama.cpp and with the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import evals.formats as step
from assistant_builder.api import check_tasks
from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.errors import Cancelled, ConfigError, EvaluationError, ModelError
from assistant_builder.inference import llamacpp
from assistant_builder.inference.llamacpp import Completion
from assistant_builder.runner import invalidation
from assistant_builder.runner.invalidation import first_stale_step, queue_if_stale, step_inputs
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord, steps_of
from evals.formats import format_folder, score_formats
from tests.export.tiny import scored, tiny_study
from tests.synthetic_study import evaluated, new_study, trained, with_data
from tests.tiny_gguf import prompter

NAMES = ("lora-Q4_0", "lora-Q8_0", "qlora-Q4_0", "qlora-Q8_0")


class Script:
    """What the scripted llama.cpp and the scripted writer do, and what they were asked."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.loaded: list[str] = []
        self.answered = 0
        self.dies_after: int | None = None
        self.refuses: str = ""
        self.differs = False

    def server(self, path: Path, **options: Any) -> Script:
        self.loaded.append(path.name)
        return self

    load_seconds, resident_bytes = 0.4, 123_000_000

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def complete(self, ids: Sequence[int], limit: int, **options: Any) -> Completion:
        if self.dies_after is not None and self.answered >= self.dies_after:
            raise ModelError("llama.cpp ended while it answered (SIGSEGV)", where=self.loaded[-1])
        self.answered += 1
        tokens = tuple(prompter().tokenizer.encode("At nine."))
        return Completion("At nine.", tokens, (), "stop", len(ids), 0, 0.2, 80.0)

    def complete_all(
        self, prompts: Sequence[Sequence[int]], limit: int, **options: Any
    ) -> Iterator[tuple[int, Completion]]:
        """The last prompt is answered first."""
        return ((place, self.complete(ids, limit)) for place, ids in [*enumerate(prompts)][::-1])

    def check(self, server: Any, prompter: Any, conversations: Mapping[str, Any]) -> None:
        if self.differs:
            raise EvaluationError(
                "the file's tokenizer differs from the study's on item 3", where="file"
            )


class Files:
    """Stands in for :class:`assistant_builder.export.gguf.GgufFiles`."""

    script: Script

    def __init__(self, study: Study, arm: str) -> None:
        self.study, self.arm = study, arm

    def path(self, type: str) -> Path:
        return self.study.formats_folder / f"{self.study.name}-{self.arm}-{type}.gguf"

    def inputs(self) -> dict[str, Any]:
        return {
            "adapter": read_json(self.study.arm_folder(self.arm) / "summary.json")["adapter_sha256"]
        }

    def record(self, type: str) -> dict[str, Any] | None:
        return {
            "bytes": {"Q8_0": 145, "Q4_0": 92}[type],
            "sha256": "0" * 64,
            "tensor_types": {type: 2},
        }

    def ensure(self, types: Sequence[str], report: Any) -> None:
        if self.script.refuses:
            raise ModelError(self.script.refuses)
        report(0.5, "merging")
        self.script.written += [f"{self.arm}-{type}" for type in types]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    found = Script()
    Files.script = found
    monkeypatch.setattr(step, "GgufFiles", Files)
    monkeypatch.setattr(step, "LlamaServer", found.server)
    monkeypatch.setattr(step, "check_prompts", found.check)
    monkeypatch.setattr(step, "ensure_converter", lambda: None)
    monkeypatch.setattr(step, "extra_installed", lambda: True)
    monkeypatch.setattr(step._FormatScoring, "_prompter", prompter())
    monkeypatch.setattr(step._FormatScoring, "_dtype", "bfloat16", raising=False)
    monkeypatch.setattr(
        step._FormatScoring,
        "_likelihoods",
        lambda self, path: step._Likelihoods([None] * len(self._items), 0.004, 20),
    )
    monkeypatch.setattr(invalidation, "base_model_identity", lambda model: "f" * 64)
    return found


@pytest.fixture
def study() -> Study:
    """An evaluated study whose files are not written."""
    found = evaluated(
        trained(
            with_data(
                new_study(
                    formats__types=["Q4_0", "Q8_0"], formats__arms="all", eval__similarity=False
                )
            )
        )
    )
    keys = ("item", "row", "turn", "cluster", "answerable", "question", "reference", "tokens")
    write_jsonl(
        found.evals_folder / "tasks" / "items.jsonl",
        [
            {
                **{key: sample[key] for key in keys},
                "messages": sample["prompt"],
                "prompt": sample["question"],
                "target": sample["reference"],
            }
            for sample in read_jsonl(found.cell_folder("L16") / "samples.jsonl")
        ],
    )
    return found


def folders(study: Study) -> tuple[str, ...]:
    return tuple(
        sorted(path.parent.name for path in study.format_scores_folder.glob("*/scores.json"))
    )


def test_every_file_of_both_arms_has_scores_like_those_of_a_cell(study, script):
    assert study.config.formats.types == ["Q8_0", "Q4_0"]  # largest first
    found = score_formats(study)
    assert folders(study) == NAMES and len(found) == 8
    cell, samples = (
        read_jsonl(folder / "samples.jsonl")
        for folder in (study.cell_folder("L16"), format_folder(study, "lora", "Q8_0"))
    )
    assert [sample["item"] for sample in samples] == [sample["item"] for sample in cell]
    assert samples[0]["answer"] == "At nine." and "exact_match" in samples[0]["metrics"]
    scores = read_json(format_folder(study, "qlora", "Q4_0") / "scores.json")
    assert scores["bytes"] == 92
    assert scores["tokens_per_second"] == 80.0
    assert scores["first_token_seconds"] == 0.2
    assert (scores["resident_bytes"], scores["load_seconds"]) == (123_000_000, 0.4)
    assert scores["prompts_checked"] == len(cell)
    assert scores["kl"] == 0.004
    assert scores["kl_items"] == 20
    assert study.progress("formats") is not None


def test_by_default_only_the_16_bit_assistant_has_files(study, script):
    study.write_config(study.config.with_changes({"formats.arms": "auto"}))
    score_formats(study)
    assert folders(study) == ("lora-Q4_0", "lora-Q8_0")
    study.write_config(study.config.with_changes({"arms": "qlora"}))
    assert study.config.file_types("qlora") == ["Q8_0", "Q4_0"]  # it is the only one


def test_answers_that_come_in_another_order_belong_to_their_items(study, script, monkeypatch):
    """The scripted server answers the last prompt first, each with the prompt itself."""

    def repeated(ids: Sequence[int], limit: int, **options: Any) -> Completion:
        return Completion("", tuple(ids), (), "stop", len(ids), 0, 0.2, 80.0)

    monkeypatch.setattr(script, "complete", repeated)
    monkeypatch.setattr(step, "TIMED", 4)
    step.score_formats(study)
    samples = read_jsonl(step.format_folder(study, "lora", "Q8_0") / "samples.jsonl")
    items = read_jsonl(study.evals_folder / "tasks" / "items.jsonl")
    assert [sample["item"] for sample in samples] == [item["item"] for item in items]
    questions = [prompter().split_ids(item["prompt"], "")[0] for item in items]
    assert [sample["answer"] for sample in samples] == list(map(prompter().decode, questions))
    assert len(set(questions)) > step.TIMED


def test_only_what_is_missing_is_scored(study, script):
    score_formats(study)
    script.loaded.clear()
    shutil.rmtree(format_folder(study, "lora", "Q4_0"))
    summary = study.arm_folder("qlora") / "summary.json"
    write_json(summary, {**read_json(summary), "adapter_sha256": "another"})
    score_formats(study)
    assert script.loaded == [
        "library-lora-Q4_0.gguf",
        "library-qlora-Q8_0.gguf",
        "library-qlora-Q4_0.gguf",
    ]
    study.write_config(study.config.with_changes({"formats.types": "Q8_0"}))
    score_formats(study)
    assert folders(study) == ("lora-Q8_0", "qlora-Q8_0") and len(script.loaded) == 3


def test_a_runtime_that_dies_loses_nothing(study, script):
    items = len(read_jsonl(study.cell_folder("L16") / "samples.jsonl"))
    script.dies_after = items + 3
    with pytest.raises(ModelError, match="llama.cpp ended"):
        score_formats(study)
    assert folders(study) == ("lora-Q8_0",)
    script.dies_after = None
    score_formats(study)
    assert folders(study) == NAMES and script.loaded.count("library-lora-Q8_0.gguf") == 1


def test_a_cancelled_step_keeps_the_scored_files(study, script):
    score_formats(study)
    shutil.rmtree(format_folder(study, "qlora", "Q4_0"))
    study.request_cancel()
    with pytest.raises(Cancelled):
        score_formats(study)
    assert folders(study) == NAMES[:2] + NAMES[3:]


def test_a_file_with_another_tokenizer_is_an_error_before_scoring(study, script):
    script.differs = True
    with pytest.raises(EvaluationError, match="tokenizer differs") as caught:
        score_formats(study)
    assert "--set formats.types=[]" in str(caught.value.remedy)
    assert not script.answered
    assert not folders(study)


def test_a_model_that_cannot_be_converted_leaves_a_reason(study, script):
    script.refuses = "llama.cpp's converter failed: unknown architecture"
    (path,) = score_formats(study)
    assert "unknown architecture" in read_json(path)["reason"]
    script.refuses = ""
    assert len(score_formats(study)) == 8 and not path.exists()


def finished(study: Study) -> Study:
    """Record all steps as run without the extra."""
    study.embedding_file.write_text("{}")
    for name in study.steps:
        study.write_step(StepRecord(name, state="succeeded", inputs=step_inputs(study, name)))
    return study


def test_without_the_extra_the_step_is_skipped_until_it_is_installed(study, script, monkeypatch):
    monkeypatch.setattr(step, "extra_installed", lambda: False)
    monkeypatch.setattr(invalidation, "extra_installed", lambda: False)
    assert score_formats(study) == []
    assert (
        "pip install -e '.[gguf]'"
        in read_json(study.format_scores_folder / "skipped.json")["reason"]
    )
    finished(study)
    assert study.state == "succeeded"
    assert study.step("formats").skipped
    assert not queue_if_stale(study, "formats")
    monkeypatch.setattr(invalidation, "extra_installed", lambda: True)
    assert first_stale_step(study, redo=False) is None and queue_if_stale(study, "formats")


def test_the_step_is_one_of_the_study_s(study, script):
    assert study.steps == tuple(
        "data data-embed train-lora train-qlora evaluate formats report".split()
    )
    assert "formats" not in steps_of(study.config.with_changes({"formats.types": "[]"}))
    outputs = {str(path.relative_to(study.folder)): "damaged" for path in score_formats(study)}
    finished(study)
    inputs = step_inputs(study, "formats")
    assert inputs["lora adapter"]
    assert inputs["formats.types"] == ["Q8_0", "Q4_0"]
    assert inputs["held-out items"]
    study.write_step(StepRecord("formats", state="succeeded", inputs=inputs, outputs=outputs))
    assert "formats.importance" not in inputs  # it answers from memory
    study.write_config(study.config.with_changes({"formats.importance": "on"}))
    assert step_inputs(study, "formats")["formats.importance"]
    assert step_inputs(study, "report")["formats.importance"]
    assert first_stale_step(study, redo=True) == "formats"
    invalidation.delete_stale_steps(study, redo=True)
    assert not study.format_scores_folder.exists() and study.step("evaluate").state == "succeeded"


def test_a_type_that_cannot_be_written_is_refused_before_training(study, monkeypatch):
    monkeypatch.setattr("assistant_builder.models.gguf_convert.extra_installed", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("assistant_builder.quantization.k_quants.is_installed", lambda: False)
    check_tasks(study)
    study.write_config(study.config.with_changes({"formats.types": "Q6_K,Q8_0"}))
    with pytest.raises(ConfigError, match=r"formats\.types: Q6_K needs the package libgguf"):
        check_tasks(study)


@pytest.mark.train
@pytest.mark.skipif(not llamacpp.is_installed(), reason="xllamacpp is not installed")
@pytest.mark.long
def test_a_file_is_written_and_answers_in_llama_cpp(short_base, converter, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = scored(
        tiny_study(
            short_base,
            formats__types=["Q8_0"],
            formats__arms="all",
            eval__similarity=False,
            eval__max_new_tokens=8,
        ),
        short_base,
    )
    score_formats(study)
    assert folders(study) == ("lora-Q8_0", "qlora-Q8_0")
    for arm, cell in (("lora", "LM"), ("qlora", "QD")):
        found, merged = (
            read_json(folder / "scores.json")
            for folder in (format_folder(study, arm, "Q8_0"), study.cell_folder(cell))
        )
        assert found["nll_per_token"] == pytest.approx(merged["nll_per_token"], abs=0.05)
        assert found["kl_items"] == 6 and (
            0 < found["kl"] < 0.01 if arm == "lora" else found["kl"] > 0.01
        ), arm
        assert found["tensor_types"]["Q8_0"] > 20
        assert found["items"] == 6
        assert found["resident_bytes"] > 1e6
