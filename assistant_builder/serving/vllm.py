"""Serving backend ``vllm``: the same adapters over the same base on a GPU, many questions at a time.

The worker process (``python -m assistant_builder.serving.vllm SETTINGS``) makes the prompts, looks facts up and applies
the rule for declining as the PyTorch backend does; vLLM (:mod:`assistant_builder.inference.vllm`) gets token ids. So
endpoint, limits, widget and errors are those of the other backends.

vLLM applies adapters per request, many in one batch, and quantizes a 16-bit base to NF4 with double quantization while
it loads (``bitsandbytes_loader.py``, part of vLLM up to release 0.27, later of the package vllm-bnb-plugin). This is
the default storage of QLoRA bases.

``--quantization bitsandbytes`` sets the load format of that name, too (``vllm/engine/arg_utils.py``,
``create_load_config``; the plugin's ``__init__.py``). vLLM does not start unless the KV cache has space for one request
of the longest context (``vllm/v1/core/kv_cache_utils.py``, ``_check_enough_kv_cache_memory``). Without
``--max-model-len`` that is the model's context length, and more than 24 GB would be needed in addition to the weights
of an 8B model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_json
from assistant_builder.chat.answer_server import run_models
from assistant_builder.chat.ask import assistant_context
from assistant_builder.config.serving import ServingBackend, ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.export.adapter import VLLM_RANKS
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.completions import answer_chunks
from assistant_builder.inference.session import ProgressCallback, Session
from assistant_builder.inference.vllm import PROGRAM, VllmServer, require_vllm
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import fetch_base
from assistant_builder.models.remote_code import allows_code
from assistant_builder.quantization import METHODS
from assistant_builder.serving.engine import start_worker
from assistant_builder.serving.local import serve_with
from assistant_builder.serving.registry import ModelRegistry
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary

SLOTS = 64
"""Questions to one assistant that are answered at a time by default: vLLM computes them in one batch."""


def _need(name: str, study: Study, arm: str) -> tuple[Any, ...]:
    """What vLLM must load for an assistant: base, revision, whether its own code may run, arguments, dtype."""
    model = study.config.model
    method = METHODS[ARMS[arm].base_storage(model.quant_type)]
    storage = method.vllm_arguments(double_quant=model.double_quant)
    if storage is None:
        single = method.name == "nf4" and not model.double_quant
        raise ConfigError(
            m(
                "vLLM quantizes a base to NF4 with double quantization, and {name} was trained over {storage}",
                name=name,
                storage=m("{method} without double quantization", method=method.name)
                if single
                else method.name,
            ),
            where=m("{study} {name}", name=study.name),
            remedy=m("Serve it on this machine or on a Ray cluster"),
        )
    trained = str(read_json(study.arm_folder(arm) / "summary.json", ArmSummary)["compute_dtype"])
    # vLLM supports no other dtype for adapters
    dtype = trained if trained in ("float16", "bfloat16") else "auto"
    return model.base, model.revision, allows_code(model), storage, dtype


def vllm_command(
    assistants: Mapping[str, tuple[Study, str]], requested: int | None = None
) -> list[str]:
    """The command line of ``vllm serve``, without an address, for assistants over one base in one storage.

    Args:
        assistants: Id → study and arm.
        requested: Most tokens of a prompt without facts and its answer; None for the default of the studies.

    Raises:
        ConfigError: They need several bases, a storage that vLLM does not support, or more context than the base has.
        ModelError: The base is not available.
    """
    needs = {_need(name, study, arm) for name, (study, arm) in assistants.items()}
    if len(needs) > 1:
        raise ConfigError(
            m("vLLM serves one base in one storage, and these assistants need several"),
            where="serve",
            remedy=m("Serve them separately, as in 'serve NAME:ARM' for each arm"),
        )
    ((_, _, trust, storage, dtype),) = needs
    studies = [study for study, _ in assistants.values()]
    folder = fetch_base(studies[0].config.model)
    rank = max(study.config.train.rank for study in studies)
    if rank > VLLM_RANKS[-1]:
        raise ConfigError(
            m(
                "vLLM serves adapters of rank {vllm_ranks} at most, not {rank}",
                vllm_ranks=VLLM_RANKS[-1],
                rank=rank,
            ),
            where="train.rank",
            remedy=m("Serve it on this machine, or export the merged model"),
        )
    limit = context_length(folder)
    modules = [
        json.dumps({"name": name, "path": str(study.arm_folder(arm) / "adapter")})
        for name, (study, arm) in assistants.items()
    ]
    return [
        PROGRAM,
        "serve",
        str(folder),
        "--dtype",
        dtype,
        "--max-model-len",
        str(max(assistant_context(study, limit, requested) for study in studies)),
        "--enable-lora",
        "--max-loras",
        str(len(assistants)),
        "--max-lora-rank",
        str(next(known for known in VLLM_RANKS if known >= rank)),
        "--generation-config",
        "vllm",  # no sampling settings of the base: requests contain their own
        *storage,
        *(["--trust-remote-code"] if trust else []),
        "--lora-modules",
        *modules,
    ]


class VllmSession(Session):
    """Assistants of a server, by id, in one vLLM. If it has ended, the next question starts it again."""

    def __init__(
        self, assistants: Mapping[str, tuple[Study, str]], context: int | None = None
    ) -> None:
        """Prepare the session; nothing is loaded. Arguments as of :func:`vllm_command`."""
        super().__init__(tuple(assistants), "the server")
        self._assistants, self._requested = dict(assistants), context
        self._server: VllmServer | None = None
        self._contexts: dict[str, int] = {}

    def ready(self, speaker: str) -> bool:
        """Whether vLLM runs and the assistant can be asked."""
        if self._server is not None and not self._server.running:
            self.close()
        return super().ready(speaker)

    def close(self) -> None:
        """End vLLM."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._loaded.clear()

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        if speaker in self._loaded:
            return
        study, arm = self._assistants[speaker]
        folder = fetch_base(study.config.model)
        prompter = ChatTokenizer.load(folder, study.template_date)
        self._look_up(study, prompter, {speaker: arm})
        if self._server is None:
            report(m("Starting vLLM"), 0.3)
            self._server = VllmServer(vllm_command(self._assistants, self._requested))
        self._contexts[speaker] = assistant_context(study, context_length(folder), self._requested)
        self._loaded[speaker] = self._server, prompter

    def _context(self, speaker: str) -> int:
        return self._contexts[speaker]

    def _generate(
        self,
        speaker: str,
        ids: Sequence[int],
        limit: int,
        sampling: Sampling,
        stop_event: threading.Event,
        certainties: list[float],
    ) -> Iterator[Chunk]:
        server, prompter = self._loaded[speaker]
        return answer_chunks(
            server.stream(
                speaker,
                ids,
                limit,
                stop_ids=prompter.stop_ids,
                logprobs=speaker in self._grounded and sampling.look_up,
                sampling=sampling,
                stop_event=stop_event,
            ),
            certainties,
        )


def serve_with_vllm(
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    as_json: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until interrupted; arguments as of :attr:`ServingBackend.start`.

    Raises:
        ConfigError: vLLM is not installed or cannot serve these assistants, other machines could use the server without
            a key, or the address is not available.
        ModelError: The base is not available.
    """
    vllm_command({each.id: (each.study, each.arm) for each in models.assistants}, config.context)
    require_vllm()
    slots = config.slots or SLOTS

    start = partial(start_worker, module=__name__, slots=slots, context=config.context)
    # the next version would need a second vLLM, and one takes nearly all memory of its GPU
    serve_with(start, replace(models, select=None), config, key, slots=slots, as_json=as_json)


VLLM = ServingBackend(
    name="vllm",
    label="vLLM",
    start=serve_with_vllm,
    requires="a GPU, vLLM and vllm-bnb-plugin",
    explanation="vLLM, for throughput on a GPU",
)


if __name__ == "__main__":
    run_models(lambda assistants, slots, context: VllmSession(assistants, context))
