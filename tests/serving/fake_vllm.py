"""``vllm serve`` as far as the backend uses it: its options, and ``/v1/completions`` over a Unix socket.

It follows ``vllm/entrypoints/openai/cli_args.py`` and ``completion/serving.py``. The environment variable ``FAKE_VLLM``
(JSON) has the ``text`` of every answer, the ``logprob`` of each token, and the ``seconds`` that one takes. Each request
is written to the file ``requests.jsonl`` of the arm's folder.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer

SETTINGS: dict[str, Any] = {
    "text": "At nine.",
    "logprob": -0.1,
    "seconds": 0.0,
    **json.loads(os.environ.get("FAKE_VLLM", "{}")),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    for text in tuple(
        "--dtype --generation-config --quantization --uds --uvicorn-log-level".split()
    ):
        parser.add_argument(text)
    for number in ("--max-model-len", "--max-loras", "--max-lora-rank"):
        parser.add_argument(number, type=int)
    for flag in ("--enable-lora", "--trust-remote-code", "--disable-log-stats"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--lora-modules", type=json.loads, nargs="+")
    return parser.parse_args()


class Completions:
    """The path ``/v1/completions``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._models = {module["name"]: Path(module["path"]) for module in options.lora_modules}
        self._most = options.max_model_len
        self._tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
        self._end = json.loads((options.model / "config.json").read_text())["eos_token_id"]
        assert all((path / "adapter_model.safetensors").is_file() for path in self._models.values())

    async def answer(self, request: Request) -> Any:
        body = await request.json()
        if body["model"] not in self._models:
            return JSONResponse(
                {"error": {"message": f"The model `{body['model']}` does not exist."}}, 404
            )
        log = self._models[body["model"]].parent / "requests.jsonl"
        with log.open("a") as file:
            file.write(json.dumps(body) + "\n")
        if len(body["prompt"]) >= self._most:
            return JSONResponse(
                {
                    "error": {
                        "message": f"This model's maximum context length is {self._most} tokens"
                    }
                },
                400,
            )
        return StreamingResponse(self._events(body, log), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], log: Path) -> AsyncIterator[str]:
        ids = [*self._tokenizer.encode(SETTINGS["text"], add_special_tokens=False).ids, self._end]
        ids = ids[: body["max_tokens"]]
        shown = ""
        try:
            for count, token in enumerate(ids, 1):
                await asyncio.sleep(SETTINGS["seconds"])
                ended = token in (self._end, *body["stop_token_ids"])
                text = self._tokenizer.decode(ids[: count - ended])
                if text.endswith("\ufffd"):
                    text = shown
                choice: dict[str, Any] = {
                    "index": 0,
                    "text": text[len(shown) :],
                    "logprobs": None,
                    "stop_reason": None,
                    "finish_reason": "stop"
                    if ended
                    else "length"
                    if count == body["max_tokens"]
                    else None,
                }
                if body.get("logprobs") is not None:
                    choice["logprobs"] = {
                        "top_logprobs": [{"x": SETTINGS["logprob"] - 1, "y": SETTINGS["logprob"]}]
                    }
                shown = text
                yield f"data: {json.dumps({'choices': [choice], 'usage': {'completion_tokens': count}})}\n\n"
                if ended:
                    break
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': len(ids)}})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            with log.open("a") as file:
                file.write('"aborted"\n')
            raise


def main() -> None:
    options = parse()
    if SETTINGS["text"] == "crash":
        print("CUDA is not available", file=sys.stderr)
        sys.exit(1)
    # as vLLM's engine core
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # engine"])
    time.sleep(0.3)
    app = Starlette(
        routes=[
            Route("/health", lambda request: PlainTextResponse("")),
            Route("/v1/completions", Completions(options).answer, methods=["POST"]),
        ]
    )
    uvicorn.run(app, uds=options.uds, log_level=options.uvicorn_log_level)


if __name__ == "__main__":
    main()
