"""Serve a finished study at an OpenAI-compatible endpoint, and ask it.

python examples/serve_and_ask.py support "How do I reset the meter?" ["Another question" …]
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


@contextmanager
def serving(study: str) -> Iterator[str]:
    """The URL of an endpoint with the assistants of a study, on a free port."""
    server = subprocess.Popen(
        ["assistant-builder", "serve", study, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()  # MODELS: at URL (…), once it answers
        if not ready:
            sys.exit(server.wait())
        yield ready.partition(": at ")[2].split()[0]
    finally:
        server.terminate()
        server.wait()


def main(study: str, *questions: str) -> None:
    """Ask each question; any OpenAI client works, too."""
    with serving(study) as url:
        for question in questions:
            request = {"model": study, "messages": [{"role": "user", "content": question}]}
            answer = (
                httpx.post(f"{url}/chat/completions", json=request, timeout=120)
                .raise_for_status()
                .json()
            )
            print(question, answer["choices"][0]["message"]["content"], sep="\n  ")
            for source in answer.get("assistant_builder", {}).get("sources", []):
                print("  from:", source)


if __name__ == "__main__":
    main(*sys.argv[1:])
