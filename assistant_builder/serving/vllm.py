"""Serving by vLLM: the command that serves the same adapters over the same base on a GPU.

What vLLM does with them: it applies adapters per request, many in one batch, and quantizes a 16-bit base to NF4 with
double quantization while it loads (``bitsandbytes_loader.py``, part of vLLM up to release 0.27 and of the package
vllm-bnb-plugin since), which is how QLoRA bases are stored here unless a study says otherwise. It knows neither a
study's system prompt nor that text of a user may spell control tokens.

``--quantization bitsandbytes`` sets the load format of that name, too (``vllm/engine/arg_utils.py``,
``create_load_config``; the plugin's ``__init__.py``). vLLM does not start unless the KV cache has space for one request
of the longest context (``vllm/v1/core/kv_cache_utils.py``, ``_check_enough_kv_cache_memory``). Left alone, that is all
that the model reads: more than 24 GB hold in addition to the weights of an 8B model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import NoReturn

from assistant_builder.atomic_io import read_json
from assistant_builder.chat.ask import context_tokens
from assistant_builder.child_process import python_environment
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import PLAIN_TEMPLATE, asks_for_date
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.models.template_process import LimitedPrompter, PromptProcess
from assistant_builder.serving.door import check_access
from assistant_builder.serving.roster import Assistant, Roster

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that ``--max-lora-rank`` takes (``vllm/config/lora.py``)."""


def vllm_command(roster: Roster, config: ServingConfig) -> list[str]:
    """The command line of ``vllm serve``.

    Args:
        roster: Assistants over one base, stored in one way.
        config: Where to listen.

    Raises:
        ConfigError: They need several bases, or one that vLLM cannot make, or more context than it reads.
        ModelError: The base cannot be had.
    """
    needs = {_need(assistant) for assistant in roster.assistants}
    if len(needs) > 1:
        raise ConfigError("vLLM serves one base, stored in one way, and these assistants need several", where="serve",
                          remedy="Serve them apart, as in 'serve NAME:qlora' and 'serve NAME:lora'")
    (base, revision, trust, storage, dtype), = needs
    folder = fetch(resolve(base, trust_remote_code=trust), revision=revision, trust_remote_code=trust)
    configs = [assistant.study.config for assistant in roster.assistants]
    rank = max(study.train.rank for study in configs)
    if rank > RANKS[-1]:
        raise ConfigError(f"vLLM serves adapters of rank {RANKS[-1]} at most, not {rank}", where="train.rank",
                          remedy="Serve it on this machine, or export the merged model")
    words = [
        "vllm", "serve", str(folder), "--host", config.host, "--port", str(config.port), "--dtype", dtype,
        "--max-model-len", str(context_tokens(configs, context_length(folder), config.context)),
        "--enable-lora", "--max-loras", str(len(roster.assistants)),
        "--max-lora-rank", str(next(known for known in RANKS if known >= rank)),
        # greedy where a request does not say otherwise, as the assistants were evaluated
        "--generation-config", "vllm", "--override-generation-config", '{"temperature": 0}',
    ]
    if storage == "nf4":
        words += ["--quantization", "bitsandbytes"]
    if trust:
        words.append("--trust-remote-code")
    # vLLM has one template for all: of several dates, the latest study's
    process = PromptProcess(folder)
    try:
        day = max(assistant.study.template_date for assistant in roster.assistants)
        template = LimitedPrompter(process, day).chat_template()
    finally:
        process.close()
    if template == PLAIN_TEMPLATE or asks_for_date(template):  # not what the base brings
        words += ["--chat-template", template]
    modules = [json.dumps({"name": assistant.id, "path": str(assistant.adapter)}) for assistant in roster.assistants]
    return [*words, "--lora-modules", *modules]


def _need(assistant: Assistant) -> tuple[str, str | None, bool, str, str]:
    """What of its study decides on the base: name, revision, trust, storage, compute dtype."""
    model = assistant.study.config.model
    if assistant.arm == "qlora" and (model.quant_type != "nf4" or not model.double_quant):
        raise ConfigError(
            f"vLLM makes NF4 with double quantization of a base, and {assistant.id} was trained over "
            f"{model.quant_type}{'' if model.double_quant else ' without double quantization'}",
            where=f"study {assistant.study.name}", remedy="Serve it on this machine or on a Ray cluster",
        )
    storage = "float16" if assistant.arm == "lora" else "nf4"
    trained = str(read_json(assistant.study.arm_folder(assistant.arm) / "summary.json")["compute_dtype"])
    dtype = trained if trained in ("float16", "bfloat16") else "auto"  # vLLM takes no other for adapters
    return model.base, model.revision, allows_code(model), storage, dtype


def serve_by_vllm(command: list[str], config: ServingConfig, key: str | None) -> NoReturn:
    """Become vLLM.

    Args:
        command: Of :func:`vllm_command`.
        config: Where to listen.
        key: What clients have to bring.

    Raises:
        ConfigError: It is not installed, or would be open to everyone.
    """
    for line in check_access(config, key):
        print(f"warning: {line}; vLLM asks for the key below /v1 alone", file=sys.stderr, flush=True)
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError("vLLM is not installed", where="serve",
                          remedy="Install it where there is a GPU (pip install vllm vllm-bnb-plugin; up to vLLM 0.27 "
                          "bitsandbytes in the plugin's place), or look at its command with --json")
    os.execve(program, command, {**python_environment(), **({"VLLM_API_KEY": key} if key is not None else {})})
