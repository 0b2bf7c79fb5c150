"""Index and rule of a grounded assistant within an export, in plain files, and what the card says about them."""

from __future__ import annotations

import ast
import importlib
import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.data import load_split
from assistant_builder.documents.questions import trained_file
from assistant_builder.errors import ConfigError
from assistant_builder.export.adapter import QUESTION, render
from assistant_builder.export_formats import Snippet
from assistant_builder.i18n import N_, Text, m
from assistant_builder.inference.chunks import Sampling
from assistant_builder.models.bundled import (
    EMBEDDER,
    EMBEDDER_HUB_ID,
    MULTILINGUAL_BUNDLE,
    MULTILINGUAL_EMBEDDER,
)
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.answering import reads_conversations
from assistant_builder.retrieval.build import served_index_folder
from assistant_builder.retrieval.decline import FILE, FIRST_TOKENS, rule_of
from assistant_builder.retrieval.grounding import (
    BEFORE,
    BETWEEN,
    DEPTH,
    FACT,
    STATEMENT,
    Grounder,
)
from assistant_builder.retrieval.index import FILES, RECORD, Index, IndexRecord
from assistant_builder.retrieval.promise import kept
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from evals.metrics.refusal import WEIGHTS_FILE

FOLDER, GROUNDING, LOOKUP, TRAINED = "retrieval", "grounding.json", "lookup.py", "embedder"
SERVING = N_(
    "Programs such as Ollama, vLLM and llama.cpp look nothing up: whoever serves these files with one must write the "
    "facts into the prompt, in the format that README.md describes under “Facts in the prompt”."
)
"""What everyone who serves an export of a grounded assistant must know."""
_VERSION = 1


def check_with_data(study: Study, *, with_data: bool) -> None:
    """Refuse to add the index of a study that looks nothing up.

    Raises:
        ConfigError: The study has no grounded approach.
    """
    if with_data and not study.config.grounded:
        raise ConfigError(
            m("its assistants look nothing up, so that there is no index to export"),
            where=m("{study} {name}", name=study.name),
            remedy=m("Export it without --with-data"),
        )


def index_bytes(study: Study) -> int:
    """Bytes of the files of the index, and of the embedder if the export contains it."""
    embedder = _exported_embedder(study)
    files = [
        *(served_index_folder(study) / name for name in FILES),
        *(embedder.rglob("*") if embedder else ()),
    ]
    return sum(path.stat().st_size for path in files if path.is_file())


def write_retrieval(
    study: Study, arm: str, folder: Path, prompter: ChatTokenizer, context: int
) -> None:
    """Write index, ``grounding.json``, and ``lookup.py`` with its weights, to the folder ``retrieval/`` of an export.

    Args:
        study: A grounded study.
        arm: The exported arm.
        folder: Folder of the export.
        prompter: The base's tokenizer.
        context: Context length of the base in tokens.

    Raises:
        StudyError: The study has no index, or index or rule are damaged.
    """
    index = Index.load(served_index_folder(study))  # checks the files
    target = folder / FOLDER
    target.mkdir()
    for name in FILES:
        shutil.copyfile(served_index_folder(study) / name, target / name)
    if embedder := _exported_embedder(study):
        shutil.copytree(embedder, target / TRAINED)
    write_json(target / GROUNDING, grounding_record(study, arm, index.embedder, prompter, context))
    write_text(target / LOOKUP, lookup_source())
    shutil.copyfile(WEIGHTS_FILE, target / WEIGHTS_FILE.name)


def grounding_record(
    study: Study, arm: str, embedder: dict[str, str], prompter: ChatTokenizer, context: int
) -> dict[str, Any]:
    """Content of ``grounding.json``: all that is needed to answer as in the study, apart from index and weights."""
    config, grounder = study.config, Grounder.of(study, prompter)
    passages = trained_file(study).is_file()
    fitted = rule_of(study.arm_folder(arm) / FILE)
    rule = fitted and kept(study, arm, fitted)
    taught = {
        pair.answer for pair in load_split(study.folder / "data", "train") if not pair.answerable
    }
    return {
        "version": _VERSION,
        "facts": config.retrieval.facts,  # most facts in a prompt
        "token_limit": grounder.limit,  # of a prompt with facts, without earlier turns
        "longest_prompt": context
        - grounder.answer,  # of a prompt with facts, earlier turns included
        "format": {
            "fact": STATEMENT if passages else FACT,
            "between": BETWEEN,
            "before": BEFORE,
            "place": "at the end of the system prompt",
            "order": "the nearest fact last",
        },
        "search": {"depth": DEPTH},
        "embedder": {**embedder, "source": embedder_source(study, ".")},
        "rule": rule and rule.to_record(),
        "first_tokens": FIRST_TOKENS,  # of an answer, by which the rule decides
        "taught": sorted(taught),  # answers that decline
        "conversations": reads_conversations(study),  # whether the assistant reads earlier turns
        "generation": {
            "max_new_tokens": max(answer_limit(study), Sampling().max_new_tokens),
            "do_sample": False,
            "eos_token_id": prompter.stop_ids,
            "pad_token_id": prompter.pad_id,
        },
    }


def embedder_source(study: Study, folder: str) -> str:
    """What sentence-transformers loads the embedder from: the folder ``folder`` of the index has what no hub has."""
    if _exported_embedder(study):
        return TRAINED if folder == "." else f"{folder}/{TRAINED}"
    name = _embedder_name(study)
    return EMBEDDER_HUB_ID if name == EMBEDDER else name


def _exported_embedder(study: Study) -> Path | None:
    """The embedder that an export must contain: a trained one, or the multilingual one, whose mean is subtracted."""
    if study.embedder_folder.is_dir():
        return study.embedder_folder
    made_here = _embedder_name(study) == MULTILINGUAL_EMBEDDER
    return MULTILINGUAL_BUNDLE.folder if made_here else None


def _embedder_name(study: Study) -> str:
    return str(read_json(study.retrieval_folder / RECORD, IndexRecord)["embedder"]["name"])


def lookup_source() -> str:
    """The module ``lookup.py``: its template, with the functions of the product by which the study was measured."""
    return render(f"{LOOKUP}.j2", code=_code)


def _code(module: str, names: Sequence[str]) -> str:
    """Source of top-level functions, classes and constants of a module, with their comments and docstrings."""
    text = inspect.getsource(importlib.import_module(module))
    lines = text.splitlines()
    sources: dict[str, str] = {}
    body = ast.parse(text).body
    for place, node in enumerate(body):
        definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
        defined = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = (part for target in targets for part in ast.walk(target))
            defined = [part.id for part in parts if isinstance(part, ast.Name)]
        start = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        after = body[place + 1] if place + 1 < len(body) else None
        described = (
            not definition and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        )
        end = (after if described and after is not None else node).end_lineno
        sources |= dict.fromkeys(
            defined, ("\n\n" if definition else "") + "\n".join(lines[start - 1 : end])
        )
    return "\n".join(dict.fromkeys(sources[name] for name in names)).strip("\n")


def grounding_notes(study: Study, *, with_data: bool) -> list[Text]:
    """What the user of an export of a grounded assistant must know, in sentences."""
    if not study.config.grounded:
        return []
    facts = read_json(served_index_folder(study) / RECORD, IndexRecord)["facts"] if with_data else 0
    contained = (
        m(
            "The folder {folder}/ contains the {facts:,} question–answer pairs of the training data as plain text: "
            "whoever has the export can read them.",
            folder=FOLDER,
            facts=facts,
        )
        if with_data
        else m("The export contains neither the index nor any of the pairs of the {study}.")
    )
    return [contained, m(SERVING)]


def python_snippet(folder: str, embedder: str, model: Sequence[str], system: str) -> Snippet:
    """Lines that answer a question from the export alone.

    Args:
        folder: Path of the export.
        embedder: Name or folder of the embedder.
        model: Lines that load ``model`` from the export.
        system: System prompt of the study; empty without one.
    """
    text = render(
        "ask.py.j2",
        model=model,
        retrieval=repr(f"{folder}/{FOLDER}"),
        folder=repr(folder),
        embedder=repr(embedder),
        prompt=f'{{"role": "system", "content": {system!r}}}, ' if system else "",
        question=QUESTION,
    )
    return Snippet(
        "grounded", "Python, with facts looked up in the export", "python", text.rstrip()
    )
