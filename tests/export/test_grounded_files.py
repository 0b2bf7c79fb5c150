"""Facts and rule in an export: plain files that find what the product finds, and nothing of the pairs without them."""

import ast
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.data import Message, load_split
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.export.card import model_card
from assistant_builder.export.export import _write_documents, loading_snippets
from assistant_builder.export.job import ExportJob
from assistant_builder.export.retrieval_files import (
    FOLDER,
    grounding_notes,
    lookup_source,
    write_retrieval,
)
from assistant_builder.export.verify import Rescore, _require_same_prompts
from assistant_builder.export_formats import ExportSpec, export_specs
from assistant_builder.retrieval.answering import Judged, looks, settle
from assistant_builder.retrieval.decline import FILE, evidence_of, rule_of
from assistant_builder.retrieval.grounding import Grounder, with_facts
from assistant_builder.retrieval.index import Fact, Index
from assistant_builder.retrieval.retriever import Retriever
from assistant_builder.study import Study
from assistant_builder.study.example import open_example
from evals.metrics.text import normalise
from tests.export.grounded import with_index
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import LARGE, new_study, trained, with_data

SPEC = ExportSpec("lora", "adapter")
UNMEASURED = Rescore("not measured")


class Words:
    """The tokenizer of an export and of the product, for which each word is a token."""

    added_tokens_decoder: dict[int, Any] = {}
    all_special_tokens = ("<|im_end|>",)
    stop_ids, pad_id, context = [1], 0, 2048

    def __init__(self) -> None:
        self.known: list[str] = []

    def apply_chat_template(self, turns: Sequence[dict[str, str]], **_: Any) -> str:
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        self.known += [word for word in text.split() if word not in self.known]
        return {"input_ids": [self.known.index(word) for word in text.split()]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(self.known[place] for place in ids)

    def text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        text = self.apply_chat_template([message.to_record() for message in messages])
        return text.replace("<|im_end|>", "<\u200b|im_end|>")

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(self(self.text(messages, prompt=True))["input_ids"])


class Exported(FakeEmbedder):
    """The embedder as an export calls it; it knows words without an x."""

    tokenizer = SimpleNamespace(tokenize=lambda text: text.split("x"))

    def is_word(self, text: str) -> bool:
        return len(self.tokenizer.tokenize(text)) == 1

    def encode(self, texts: Sequence[str], **_: Any) -> Any:
        return super().encode(texts)


@pytest.fixture
def study() -> Study:
    return with_index(
        trained(with_data(new_study("ferries", LARGE, approaches=["grounded"]))), FakeEmbedder()
    )


def exported(study: Study, folder: Path, words: Words) -> Any:
    """The class of ``lookup.py`` over the files in ``folder``."""
    folder.mkdir(exist_ok=True)
    write_retrieval(study, "lora", folder, words, 2048)
    spec = importlib.util.spec_from_file_location("exported_lookup", folder / FOLDER / "lookup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # the folder is compared
        patch.setitem(sys.modules, "exported_lookup", module)  # its dataclass looks itself up
        spec.loader.exec_module(module)
    return module.Lookup(str(folder / FOLDER), Exported(), words)


@pytest.mark.parametrize("text", ["£5.00 a (x)", "9am A b", "3½ C++"])
def test_an_export_compares_answers_as_the_product_does(text, monkeypatch):
    module = ModuleType("exported_lookup")
    module.__file__ = "lookup.py"
    monkeypatch.setitem(sys.modules, module.__name__, module)  # its dataclass looks itself up
    exec(lookup_source(), vars(module))
    assert module.normalise(text) == normalise(text)


def test_an_export_finds_and_decides_what_the_product_does(study, tmp_path):
    words = Words()
    lookup = exported(study, tmp_path / "out", words)
    prompter: Any = words
    retriever = Retriever(
        study, Index.load(study.retrieval_folder), Exported(), Grounder.of(study, prompter)
    )
    rule = rule_of(study.arm_folder("lora") / FILE)
    assert rule is not None
    asked = [
        pair.messages[:-1]
        for split in ("validation", "heldout")
        for pair in load_split(study.folder / "data", split)
    ][:60]
    asked.append(
        (
            Message("user", "Where is the <|im_end|> pier?"),
            Message("assistant", "There."),
            Message("user", "And when?"),
        )
    )
    typed = [re.sub(r"\b([a-z]{3})([a-z]+)", r"\1x\2", talk[-1].content) for talk in asked[:9]]
    misspelt = [
        (*talk[:-1], Message("user", text)) for talk, text in zip(asked, typed, strict=False)
    ]
    assert lookup.spelling.corrected(typed[0], lookup.is_word) != typed[0]
    asked += misspelt
    asked += [
        (*talk, Message("assistant", "Yes."), Message("user", "And when?")) for talk in asked[:9]
    ]
    answers, settled = ["It leaves at nine.", "I don't know that.", ""], Counter[object]()
    for number, messages in enumerate(asked):
        certainties, text = [-0.1 * step for step in range(20)], answers[number % 3]
        pair = looks(messages, conversations=False)
        judged = []
        for look, found in zip(pair, retriever.find([look for look in pair if look]), strict=False):
            assert look is not None
            ours = lookup.find(look)
            assert ours["sources"] == found.source_records()
            theirs = asdict(found.evidence)
            assert theirs.pop("answers") == [source["answer"] for source in ours["sources"]]
            assert ours["evidence"] == pytest.approx(theirs, abs=1e-5)
            assert tuple(ours["ids"]) == words.prompt_ids(found.messages)
            sure = rule.confidence(
                evidence_of(found.evidence, text, certainties, lookup.settings["taught"])
            )
            assert lookup.confidence(ours, words(text)["input_ids"], certainties) == pytest.approx(
                sure, abs=1e-3
            )
            judged.append(Judged(sure, found.best))
        again = iter(judged[1:])
        place = settle(
            rule,
            messages[-1].content,
            judged[0],
            again.__next__ if len(judged) > 1 else None,
            pair[1].query.history if pair[1] else "",
        )
        shown = lookup.ask(
            [message.to_record() for message in messages],
            lambda ids: (words(text)["input_ids"], certainties),  # noqa: B023 - called at once
        )
        assert shown["declined"] == (place is None)
        assert shown["text"] == (rule.sentence if place is None else text)
        settled[place] += 1
    assert settled[0] and settled[None] and len(pair) == 2


def test_the_module_needs_nothing_of_the_product(study, tmp_path):
    exported(study, tmp_path, Words())
    nodes = list(ast.walk(ast.parse((tmp_path / FOLDER / "lookup.py").read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith(("assistant_builder", "evals")) for name in names)
    assert {"numpy", "bm25s", "safetensors.numpy"} <= names


def test_an_export_with_data_has_all_that_answering_needs(study, tmp_path):
    exported(study, tmp_path, Words())
    folder = tmp_path / FOLDER
    assert {path.name for path in folder.iterdir()} == set(
        """
        index.json facts.jsonl vectors.safetensors grounding.json lookup.py refusal_weights.json
    """.split()
    )
    record = read_json(folder / "grounding.json")
    assert record["facts"] == 3
    assert record["token_limit"] == 2048 - 64
    assert record["longest_prompt"] == 2048 - 64
    assert record["format"]["fact"] == "Q: {question}\nA: {answer}"
    assert record["embedder"] == {"name": "fake", "sha256": "0" * 64, "source": "fake"}
    assert record["rule"]["threshold"] == 0.5
    assert record["rule"]["sentence"] == "I was not told that."
    assert record["generation"] == {
        "max_new_tokens": 256,
        "do_sample": False,
        "eos_token_id": [1],
        "pad_token_id": 0,
    }

    (study.arm_folder("lora") / FILE).unlink()
    (study.retrieval_folder / "facts.jsonl").write_text("")
    with pytest.raises(StudyError, match="is not the file that index.json names"):
        write_retrieval(study, "lora", tmp_path / "other", Words(), 2048)


def test_a_trained_embedder_is_in_the_export_and_loaded_from_there(study, tmp_path):
    write_json(study.embedder_folder / "modules.json", [])
    write_json(study.embedder_folder / "1_Pooling" / "config.json", {})
    folder = tmp_path / "export"
    exported(study, folder, Words())
    assert (folder / FOLDER / "embedder" / "1_Pooling" / "config.json").is_file()
    assert read_json(folder / FOLDER / "grounding.json")["embedder"]["source"] == "embedder"
    snippet = loading_snippets(study, SPEC, folder="exported", base="base", with_data=True)[0].text
    assert "SentenceTransformer('exported/retrieval/embedder')" in snippet


def documents(study: Study, spec: ExportSpec, folder: Path, *, with_data: bool) -> str:
    """The text files of an export."""
    folder.mkdir()
    _write_documents(
        study,
        spec,
        folder,
        UNMEASURED,
        template=None,
        dated=None,
        with_data=with_data,
        notes=grounding_notes(study, with_data=with_data),
    )
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.iterdir())


@pytest.mark.parametrize("spec", export_specs(TWINS), ids=lambda spec: spec.name)
def test_without_data_nothing_of_the_pairs_is_in_an_export(spec, study, tmp_path):
    text = documents(study, spec, tmp_path / "out", with_data=False)
    pairs = [
        pair
        for split in ("train", "validation")
        for pair in load_split(study.folder / "data", split)
    ]
    texts = {
        message.content for pair in pairs for message in pair.messages if message.role != "system"
    }
    assert not [content for content in texts if len(content) > 12 and content in text]
    assert "neither the index nor any of the pairs" in text and "import lookup" not in text
    assert "answers from memory, and\nit was not measured so" in text
    assert "whoever serves these files with one must write the facts into the prompt" in text
    assert "Q: question of fact 1, the nearest\nA: answer of fact 1, the nearest" in text


@pytest.mark.parametrize("spec", export_specs(TWINS), ids=lambda spec: spec.name)
def test_with_data_the_card_says_so_and_shows_how(spec, study, tmp_path):
    text = documents(study, spec, tmp_path / "out", with_data=True)
    facts = len((study.retrieval_folder / "facts.jsonl").read_text().splitlines())
    assert (
        f"contains the {facts:,} question–answer pairs of the training data as plain text" in text
    )
    (shown,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL
    )
    assert "from lookup import Lookup" in shown and len(shown.splitlines()) <= 32
    compile(shown, "card", "exec")
    (study.arm_folder(spec.arm) / FILE).unlink()
    card = model_card(
        study,
        spec,
        None,
        UNMEASURED,
        loading_snippets(study, spec, folder=".", base="B"),
        with_data=True,
    )
    assert "There is no rule" in card


def test_a_memory_study_has_no_facts_to_export(tmp_path):
    study = trained(with_data(new_study()))
    adapter = study.arm_folder("lora") / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="look nothing up.*--with-data"):
        ExportJob(study, SPEC).start(tmp_path / "out", with_data=True)
    assert "Facts in the prompt" not in documents(study, SPEC, tmp_path / "out", with_data=False)


def test_the_check_after_writing_renders_prompts_with_their_facts():
    asked = [Message("user", "When does it open?")]
    source = {"row": 3, "question": "Opening time?", "answer": "At nine."}
    facts = [Fact(3, 0, "Opening time?", "At nine.", "", None, None, True)]
    words: Any = Words()
    item = {
        "item": "1",
        "messages": [message.to_record() for message in asked],
        "sources": [source],
        "prompt": words.text(with_facts(asked, facts), prompt=True),
    }
    _require_same_prompts([item], words, Path("."))


@pytest.mark.parametrize("arm", ["lora", "qlora"])
@pytest.mark.parametrize("format", ["adapter", "merged"])
def test_no_record_of_a_study_puts_code_into_the_lines_that_load_an_export(arm, format):
    study = open_example()
    for path in [*study.folder.rglob("scores.json"), *study.folder.glob("arms/*/summary.json")]:
        record = read_json(path)
        if "compute_dtype" in record:
            write_json(
                path,
                {**record, "compute_dtype": 'float32"); __import__("os").system("id"); print("'},
            )
    ways = loading_snippets(study, ExportSpec(arm, format), folder=".", base="B")
    lines = next(way.text for way in ways if way.language == "python")
    named = {node.id for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Name)}
    assert "base" in named or "assistant" in named
    assert "__import__" not in named
