"""Export format ``adapter``: the LoRA weights for PEFT and vLLM, and the loading snippets that formats share."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import file_hash
from assistant_builder.errors import ModelError
from assistant_builder.export_formats import (
    OTHER_FILES_BYTES,
    ExportFormat,
    ExportSource,
    LoadingContext,
    Snippet,
)
from assistant_builder.i18n import N_, Text, m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_json_object
from assistant_builder.quantization import METHODS
from assistant_builder.study import Study

QUESTION = "What can you help me with?"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM's ``--max-lora-rank`` accepts (``vllm/config/lora.py``)."""
_TOKENIZER_FILES = """
    tokenizer.json tokenizer_config.json tokenizer.model special_tokens_map.json added_tokens.json vocab.json merges.txt
    """.split()


class AdapterFormat(ExportFormat):
    """The trained weights and their settings; the base model is loaded from its own source."""

    name = "adapter"
    label = N_("Adapter")
    noun = N_("adapter")
    explanation = N_("the trained weights only: small, loaded on the base model")
    contents = N_(
        "Adapter weights and settings, tokenizer and chat template, a model card with the project's numbers, and how "
        "to load it; as a folder and as one zip."
    )
    activity = N_("Copying the adapter")
    needs_base = True
    keeps_storage = True
    zipped = True
    library = "peft"
    relation = "adapter"

    def cell(self, arm: str) -> str | None:
        """The arm as it was trained."""
        return None if ARMS[arm].rounds else ARMS[arm].cell

    def estimated_bytes(self, summary: Mapping[str, Any]) -> int:
        """The files, and the zip of them."""
        return 2 * (int(summary["adapter_bytes"]) + OTHER_FILES_BYTES)

    def write(self, source: ExportSource, folder: Path) -> list[Text]:
        """Write ``adapter_model.safetensors`` and an ``adapter_config.json`` that names a base others can load."""
        trained = trained_adapter(source.study, source.arm)
        shutil.copyfile(trained / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        config = read_json_object(trained / "adapter_config.json")
        if config.get("peft_type") != "LORA":  # PEFT would download the parts of other types
            raise ModelError(
                m("the adapter is no LoRA adapter"),
                where=str(trained / "adapter_config.json"),
                remedy=m("Train the {study} again"),
            )
        config |= {
            "base_model_name_or_path": source.base_name,
            "revision": source.study.config.model.revision,
        }
        write_object(folder / "adapter_config.json", config)
        return []

    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """PEFT, and vLLM for the arm whose base vLLM stores in the same way."""
        folder = context.folder
        lines = [
            *_base_lines(context, "pipeline"),
            f'assistant = pipeline("text-generation", model=PeftModel.from_pretrained(base, {folder!r}), '
            f"tokenizer=AutoTokenizer.from_pretrained({folder!r}))",
            *chat_lines(context),
        ]
        python = Snippet("python", "Python, with transformers and peft", "python", "\n".join(lines))
        if ARMS[context.arm].quantized:
            return [python]
        rank = next((known for known in VLLM_RANKS if known >= context.rank), context.rank)
        command = (
            f"{vllm_command(context.base, context)} --enable-lora "
            f"--max-lora-rank {rank} --lora-modules {shell_word(f'{context.name}={folder}')} "
            f"--chat-template {shell_word(folder)}/chat_template.jinja"  # has the study's date, if any
        )
        return [python, server_snippet("As a server, with vLLM", command, context)]

    def model_lines(self, context: LoadingContext) -> list[str]:
        """The base as in training, and the adapter on it."""
        return [
            *_base_lines(context),
            f"model = PeftModel.from_pretrained(base, {context.folder!r})",
        ]

    def summary(self, arm: str, arm_label: str) -> str:
        """What the adapter is."""
        what = "An assistant for the questions of one domain"
        return f"{what}, as an adapter that is put on its base model: {arm_label}."

    def limitation(self, arm: str) -> str:
        """The base decides what the adapter is."""
        return (
            f"The adapter was trained on the {ARMS[arm].base_label} base. On the full 16-bit base it is another "
            "assistant than the one judged here."
            if ARMS[arm].quantized
            else ""
        )

    def load(
        self, study: Study, arm: str, base: Path, folder: Path, options: dict[str, Any]
    ) -> Any:
        """Load the base as in training, and the adapter on it."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from assistant_builder.models.loading import DTYPES, base_spec, load_base

        model = study.config.model
        dtype = next(name for name, value in DTYPES.items() if value == options["dtype"])
        method = METHODS[ARMS[arm].base_storage(model.quant_type)]
        config = method.transformers_config(double_quant=model.double_quant, compute_dtype=dtype)
        if method.quantizes and config is None:  # transformers does not know the method
            loaded = load_base(base_spec(model, base, method.name, compute_dtype=dtype))
        else:
            # quantized from float16: NF4 of weights rounded to bfloat16 is another base
            if config is not None:
                options |= {"dtype": DTYPES["float16"], "quantization_config": config.build()}
            loaded = AutoModelForCausalLM.from_pretrained(base, **options)
        return PeftModel.from_pretrained(loaded, str(folder))


def trained_adapter(study: Study, arm: str) -> Path:
    """Folder of the adapter that training wrote; raises ModelError if it is not the one that was trained."""
    folder = study.arm_folder(arm) / "adapter"
    expected = study.arm_summary(arm)["adapter_sha256"]
    if file_hash(folder / "adapter_model.safetensors") != expected:
        raise ModelError(
            m("the adapter is not the one that training wrote"),
            where=str(folder),
            remedy=m("Train it again with 'assistant-builder run {name} --redo'", name=study.name),
        )
    return folder


def write_object(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers and PEFT write theirs."""
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def chat_lines(context: LoadingContext) -> list[str]:
    """Python lines that ask a pipeline named ``assistant``."""
    system = f'{{"role": "system", "content": {context.system!r}}}, ' if context.system else ""
    return [
        f'messages = [{system}{{"role": "user", "content": "{QUESTION}"}}]',
        f"print(assistant(messages, max_new_tokens={context.max_new_tokens}, do_sample=False, "
        'return_full_text=False)[0]["generated_text"])',
    ]


def server_snippet(title: str, command: str, context: LoadingContext) -> Snippet:
    """A command that starts an OpenAI-compatible server on port 8000, and a request to it."""
    messages = [{"role": "system", "content": context.system}] if context.system else []
    messages.append({"role": "user", "content": QUESTION})
    request = {"model": context.name, "messages": messages, "temperature": 0}
    # a terminal may act on control characters that JSON leaves as they are
    body = "".join(
        char if char.isprintable() else json.dumps(char)[1:-1]
        for char in json.dumps(request, ensure_ascii=False)
    )
    url = "http://127.0.0.1:8000/v1/chat/completions"
    curl = f"curl {url} -H 'Content-Type: application/json' -d {shell_word(body)}"
    return Snippet("server", title, "shell", f"{command}\n{curl}")


def vllm_command(model: str, context: LoadingContext) -> str:
    """The start of a command that serves a model with vLLM."""
    return f"vllm serve {shell_word(model)} --max-model-len {context.context}"


def ollama_snippet(context: LoadingContext) -> Snippet:
    """Commands that make an export with a Modelfile a model of Ollama, and ask it."""
    name = shell_word(context.name)
    lines = (
        f"cd {shell_word(context.folder)}",
        f"ollama create {name} -f Modelfile",
        f'ollama run {name} "{QUESTION}"',
    )
    return Snippet("ollama", "On a laptop, with Ollama", "shell", "\n".join(lines))


def render(template: str, **values: Any) -> str:
    """Render a template of this package to plain text; texts of others are escaped before."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(template).render(**values)


def shell_word(text: str) -> str:
    """One word of a shell that no program takes for an option."""
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _base_lines(context: LoadingContext, *more: str) -> list[str]:
    """Lines that import from transformers (also ``more``) and load the base as in training."""
    model = context.model
    method = METHODS[ARMS[context.arm].base_storage(model.quant_type)]
    config = method.transformers_config(
        double_quant=model.double_quant, compute_dtype=context.compute_dtype
    )
    quantized = f", quantization_config={config.source()}" if config else ""
    # quantized from float16, as in training: rounding to bfloat16 first would give other 4-bit weights
    dtype = "float16" if method.quantizes else context.compute_dtype
    names = ["AutoModelForCausalLM", "AutoTokenizer"]
    names += [*([config.class_name] if config else []), *more]
    comment = (
        f"# It was trained on a base stored as {method.label}, which transformers cannot make: "
        "answers may differ."
    )
    return [
        *([comment] if method.quantizes and config is None else []),
        f"from transformers import {', '.join(names)}; from peft import PeftModel",
        f"base = AutoModelForCausalLM.from_pretrained({context.base!r}, dtype={json.dumps(dtype)}{quantized})",
    ]


ADAPTER = AdapterFormat()


def copy_tokenizer(
    base: Path, folder: Path, prompter: ChatTokenizer, *, adds_bos: bool | None
) -> None:
    """Write tokenizer and chat template as the study used them; a server adds BOS if ``adds_bos``; None: unknown."""
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    template = prompter.tokenizer.chat_template
    path = folder / "tokenizer_config.json"
    settings = read_json_object(path) if path.is_file() else {}
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        settings["chat_template"] = template  # Ollama's converter and older readers look here
    if adds_bos is False:
        settings["add_bos_token"] = False
    write_object(path, settings)
