"""How to load an export, in five lines each: for LOADING.md and for the page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assistant_builder.config import ModelConfig
from assistant_builder.data.card import fenced
from evals.export.kinds import Kind

QUESTION = "What can you help me with?"
_ASK = ("print(assistant(messages, max_new_tokens={longest}, do_sample=False, return_full_text=False)[0]"
        '["generated_text"])')


@dataclass(frozen=True)
class Snippet:
    """A few lines to copy.

    Attributes:
        key: Short name.
        title: What they are for.
        language: Of the lines.
        text: The lines.
    """

    key: str
    title: str
    language: Literal["python", "shell"]
    text: str


@dataclass(frozen=True)
class Subject:
    """What is loaded.

    Attributes:
        kind: Which export.
        folder: Where it lies.
        base: Name or folder of the base, for an adapter.
        name: Name of the study.
        system: Its system prompt; empty without one.
        model: Its model settings.
        compute_dtype: Dtype of the evaluation's arithmetic.
        longest: Tokens of the longest answer in the evaluation.
        rank: Rank of the adapter.
        context: Tokens that a server lets a prompt and its answer take together.
    """

    kind: Kind
    folder: str
    base: str
    name: str
    system: str
    model: ModelConfig
    compute_dtype: str
    longest: int
    rank: int
    context: int


def snippets(subject: Subject) -> list[Snippet]:
    """Every way to load it, the most faithful first."""
    if subject.kind.format == "adapter":
        return [Snippet("python", "Python, with transformers and peft", "python", _adapter_lines(subject)),
                *([Snippet("server", "As a server, with vLLM", "shell", _adapter_server(subject))]
                  if subject.kind.arm == "lora" else [])]
    return [
        Snippet("python", "Python, with transformers", "python", _merged_lines(subject)),
        Snippet("ollama", "On a laptop, with Ollama", "shell", _ollama_lines(subject)),
        Snippet("server", "As a server, with vLLM or transformers", "shell", _merged_server(subject)),
    ]


def _messages(subject: Subject) -> str:
    system = f'{{"role": "system", "content": {subject.system!r}}}, ' if subject.system else ""
    return f'messages = [{system}{{"role": "user", "content": "{QUESTION}"}}]'


def _merged_lines(subject: Subject) -> str:
    return "\n".join([
        "from transformers import pipeline",
        f'assistant = pipeline("text-generation", model={subject.folder!r}, dtype="{subject.compute_dtype}")',
        _messages(subject),
        _ASK.format(longest=subject.longest),
    ])


def _adapter_lines(subject: Subject) -> str:
    model, four_bit = subject.model, subject.kind.arm == "qlora"
    quantized = (
        f', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{model.quant_type}", '
        f'bnb_4bit_use_double_quant={model.double_quant}, bnb_4bit_compute_dtype="{subject.compute_dtype}")'
    ) if four_bit else ""
    # quantized from float16, as in training: rounding to bfloat16 first would give other 4-bit weights
    dtype = "float16" if four_bit else subject.compute_dtype
    names = "AutoModelForCausalLM, AutoTokenizer, " + ("BitsAndBytesConfig, " if four_bit else "") + "pipeline"
    return "\n".join([
        f"from transformers import {names}; from peft import PeftModel",
        f'base = AutoModelForCausalLM.from_pretrained({subject.base!r}, dtype="{dtype}"{quantized})',
        f'assistant = pipeline("text-generation", model=PeftModel.from_pretrained(base, {subject.folder!r}), '
        f"tokenizer=AutoTokenizer.from_pretrained({subject.folder!r}))",
        _messages(subject),
        _ASK.format(longest=subject.longest),
    ])


def _adapter_server(subject: Subject) -> str:
    return "\n".join([
        f"vllm serve {_word(subject.base)} --max-model-len {subject.context} --enable-lora "
        f"--max-lora-rank {_rank(subject.rank)} "
        f"--lora-modules {_word(f'{subject.name}={subject.folder}')} "
        f"--chat-template {_word(subject.folder)}/chat_template.jinja",  # with the study's date, where it writes one
        _curl(subject, 8000, subject.name),
    ])


def _merged_server(subject: Subject) -> str:
    return "\n".join([
        f"vllm serve {_word(subject.folder)} --max-model-len {subject.context} "
        f"--served-model-name {_word(subject.name)} --port 8000",
        f"# or: transformers serve {_word(subject.folder)} --port 8000",
        _curl(subject, 8000, subject.name),
    ])


def _ollama_lines(subject: Subject) -> str:
    return "\n".join([
        f"cd {_word(subject.folder)}",
        f"ollama create {_word(subject.name)} -f Modelfile",
        f'ollama run {_word(subject.name)} "{QUESTION}"',
    ])


def _curl(subject: Subject, port: int, name: str) -> str:
    messages = [{"role": "system", "content": subject.system}] if subject.system else []
    body = json.dumps({"model": name, "messages": [*messages, {"role": "user", "content": QUESTION}],
                       "temperature": 0}, ensure_ascii=False)
    # a terminal may act on control characters that JSON leaves as they are
    body = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in body)
    return f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' -d {_word(body)}"


def _rank(rank: int) -> int:
    """The ranks that vLLM has room for."""
    return next((known for known in (8, 16, 32, 64, 128, 256, 320, 512) if known >= rank), rank)


def _word(text: str) -> str:
    """One word of a shell that no program takes for an option."""
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def loading_document(found: Sequence[Snippet], notes: Sequence[str], title: str) -> str:
    """``LOADING.md``.

    Args:
        found: The snippets.
        notes: What to keep in mind, one paragraph each.
        title: Of the document.
    """
    parts = [f"# {title}", *notes]
    for snippet in found:
        parts.append(f"## {snippet.title}\n\n{fenced(snippet.text, snippet.language)}")
    return "\n\n".join(parts) + "\n"
