"""Serve a finished study at an OpenAI-compatible endpoint, and ask it; any OpenAI client works, too.

python examples/serve_and_ask.py support "How do I reset the meter?" ["Another question" …]
"""

import sys

import httpx

import assistant_builder as ab

name, *questions = sys.argv[1:]
with ab.open(name).serve() as server:
    for question in questions:
        request = {
            "model": server.model,
            "messages": [{"role": "user", "content": question}],
        }
        reply = httpx.post(f"{server.url}/chat/completions", json=request, timeout=600)
        answer = reply.raise_for_status().json()
        print(question, answer["choices"][0]["message"]["content"], sep="\n  ")
        for source in answer.get("assistant_builder", {}).get("sources", []):
            print("  from:", source)
