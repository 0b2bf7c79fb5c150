"""Serving backend ``vllm``: the command that serves the same adapters over the same base on a GPU.

vLLM applies adapters per request, many in one batch, and quantizes a 16-bit base to NF4 with double quantization while
it loads (``bitsandbytes_loader.py``, part of vLLM up to release 0.27, later of the package vllm-bnb-plugin). This is
the default storage of QLoRA bases. vLLM does not add the system prompt of a study, and interprets control tokens in a
user's text.

``--quantization bitsandbytes`` sets the load format of that name, too (``vllm/engine/arg_utils.py``,
``create_load_config``; the plugin's ``__init__.py``). vLLM does not start unless the KV cache has space for one request
of the longest context (``vllm/v1/core/kv_cache_utils.py``, ``_check_enough_kv_cache_memory``). Without
``--max-model-len`` that is the model's context length, and more than 24 GB would be needed in addition to the weights
of an 8B model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_json
from assistant_builder.chat.ask import context_tokens
from assistant_builder.child_process import python_environment
from assistant_builder.config.serving import ServingBackend, ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.export.adapter import VLLM_RANKS
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import PLAIN_TEMPLATE, asks_for_date
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.quantization import METHODS
from assistant_builder.serving.auth import check_access
from assistant_builder.serving.registry import ModelRegistry, ServedModel


def vllm_command(models: ModelRegistry, config: ServingConfig) -> list[str]:
    """The command line of ``vllm serve`` for assistants over one base in one storage.

    Raises:
        ConfigError: They need several bases, a storage that vLLM does not support, or more context than the base has,
            or look facts up.
        ModelError: The base is not available.
    """
    for assistant in models.assistants:
        if assistant.grounded:
            raise ConfigError(f"vLLM does not look facts up, and {assistant.id} was trained to read them",
                              where=f"study {assistant.study.name}", remedy="Serve it with --backend local")
    needs = {_need(assistant) for assistant in models.assistants}
    if len(needs) > 1:
        raise ConfigError("vLLM serves one base in one storage, and these assistants need several", where="serve",
                          remedy="Serve them separately, as in 'serve NAME:ARM' for each arm")
    (base, revision, trust, storage, dtype), = needs
    folder = fetch(resolve(base, trust_remote_code=trust), revision=revision, trust_remote_code=trust)
    configs = [assistant.study.config for assistant in models.assistants]
    rank = max(study.train.rank for study in configs)
    if rank > VLLM_RANKS[-1]:
        raise ConfigError(f"vLLM serves adapters of rank {VLLM_RANKS[-1]} at most, not {rank}", where="train.rank",
                          remedy="Serve it on this machine, or export the merged model")
    words = [
        "vllm", "serve", str(folder), "--host", config.host, "--port", str(config.port), "--dtype", dtype,
        "--max-model-len", str(context_tokens(configs, context_length(folder), config.context)),
        "--enable-lora", "--max-loras", str(len(models.assistants)),
        "--max-lora-rank", str(next(known for known in VLLM_RANKS if known >= rank)),
        # greedy by default, as the assistants were evaluated
        "--generation-config", "vllm", "--override-generation-config", '{"temperature": 0}',
    ]
    words += [*storage, *(["--trust-remote-code"] if trust else [])]
    # vLLM has one template for all assistants: the date is that of the latest study
    day = max(assistant.study.template_date for assistant in models.assistants)
    with closing(TemplateProcess(folder)) as process:
        template = LimitedChatTokenizer(process, day).chat_template()
    if template == PLAIN_TEMPLATE or asks_for_date(template):  # differs from the template of the base
        words += ["--chat-template", template]
    modules = [json.dumps({"name": assistant.id, "path": str(assistant.adapter)}) for assistant in models.assistants]
    return [*words, "--lora-modules", *modules]


def _need(assistant: ServedModel) -> tuple[str, str | None, bool, tuple[str, ...], str]:
    """The base that an assistant needs: name, revision, trust, arguments for its storage, compute dtype."""
    model = assistant.study.config.model
    method = METHODS[ARMS[assistant.arm].base_storage(model.quant_type)]
    storage = method.vllm_arguments(double_quant=model.double_quant)
    if storage is None:
        raise ConfigError(f"vLLM quantizes a base to NF4 with double quantization, and {assistant.id} was trained over "
                          f"{method.name}{'' if model.double_quant else ' without double quantization'}",
                          where=f"study {assistant.study.name}", remedy="Serve it on this machine or on a Ray cluster")
    trained = str(read_json(assistant.study.arm_folder(assistant.arm) / "summary.json")["compute_dtype"])
    dtype = trained if trained in ("float16", "bfloat16") else "auto"  # vLLM supports no other dtype for adapters
    return model.base, model.revision, allows_code(model), storage, dtype


def serve_with_vllm(models: ModelRegistry, config: ServingConfig, key: str | None, *, as_json: bool = False,
                    notify: Callable[[str], None] = lambda line: None) -> None:
    """Replace this process by vLLM, or print its command; arguments as of :attr:`ServingBackend.start`.

    Raises:
        ConfigError: vLLM is not installed, or other machines could use it without a key.
    """
    command = vllm_command(models, config)
    if as_json:
        return print(json.dumps({"command": command}, ensure_ascii=False, indent=2))
    for line in check_access(config, key):
        print(f"warning: {line}; vLLM requires the key below /v1 only", file=sys.stderr, flush=True)
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError("vLLM is not installed", where="serve",
                          remedy="Install it where there is a GPU (pip install vllm vllm-bnb-plugin; up to vLLM 0.27 "
                          "bitsandbytes in the plugin's place), or look at its command with --json")
    os.execve(program, command, {**python_environment(), **({"VLLM_API_KEY": key} if key is not None else {})})


VLLM = ServingBackend(name="vllm", label="vLLM", start=serve_with_vllm, widget=False, remembers=False,
                      requires="a GPU, vLLM and vllm-bnb-plugin",
                      explanation="vLLM, for throughput on a GPU; --json prints its command")
