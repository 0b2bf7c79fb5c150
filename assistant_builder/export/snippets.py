"""Building blocks of the lines that load an export: shown on the page, in ``LOADING.md`` and in the model card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from assistant_builder.data.card import fenced
from assistant_builder.export_formats import LoadingContext, Snippet

QUESTION = "What can you help me with?"


def chat_lines(context: LoadingContext) -> list[str]:
    """Python lines that ask a pipeline named ``assistant``."""
    system = f'{{"role": "system", "content": {context.system!r}}}, ' if context.system else ""
    return [
        f'messages = [{system}{{"role": "user", "content": "{QUESTION}"}}]',
        f"print(assistant(messages, max_new_tokens={context.max_new_tokens}, do_sample=False, "
        'return_full_text=False)[0]["generated_text"])',
    ]


def curl_command(context: LoadingContext, port: int = 8000) -> str:
    """A request to an OpenAI-compatible server on this machine that serves the export under the study's name."""
    messages = [{"role": "system", "content": context.system}] if context.system else []
    body = json.dumps({"model": context.name, "messages": [*messages, {"role": "user", "content": QUESTION}],
                       "temperature": 0}, ensure_ascii=False)
    # a terminal may act on control characters that JSON leaves as they are
    body = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in body)
    return f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' -d {shell_word(body)}"


def shell_word(text: str) -> str:
    """One word of a shell that no program takes for an option."""
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def loading_document(snippets: Sequence[Snippet], notes: Sequence[str], title: str) -> str:
    """``LOADING.md``.

    Args:
        snippets: The ways to load the export.
        notes: What to keep in mind, one paragraph each.
        title: Title of the document.
    """
    parts = [f"# {title}", *notes]
    for snippet in snippets:
        parts.append(f"## {snippet.title}\n\n{fenced(snippet.text, snippet.language)}")
    return "\n\n".join(parts) + "\n"
