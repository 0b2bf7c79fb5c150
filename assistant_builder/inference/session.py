"""Loads the assistants of a study and their untuned base model, and streams their answers.

Torch is imported with the first answer, so that the page's process can import the types of this module.
"""

from __future__ import annotations

import abc
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS, base_owner
from assistant_builder.data import Message
from assistant_builder.errors import ModelError
from assistant_builder.i18n import Text, m
from assistant_builder.inference.chunks import Chunk, Finish, Sampling
from assistant_builder.inference.generate import KVCacheState, generate_tokens
from assistant_builder.inference.grounded import Generation, Grounded
from assistant_builder.models.checkpoint_dir import UNKNOWN_LENGTH
from assistant_builder.quantization import METHODS, method_of
from assistant_builder.retrieval.answering import Look, alone, reads_conversations
from assistant_builder.study import Study
from assistant_builder.study.steps import split_run

if TYPE_CHECKING:
    from assistant_builder.retrieval.retriever import Found

BASE = "base"
"""The base model without an adapter: cell B16 of the evaluation, or the untuned cell of the study's first arm if the
study does not train the 16-bit arm."""


ProgressCallback = Callable[[Text, float], None]
"""Progress callback of loading: current phase, and fraction that is done."""


class Session(abc.ABC):
    """Loads models, named ``speakers``, on demand and streams their answers; subclasses define how one is loaded."""

    def __init__(self, speakers: Sequence[str], where: str) -> None:
        self._speakers = tuple(speakers)
        self._where = where
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._conversations: dict[str, KVCacheState] = {}
        self._grounded: dict[str, Grounded] = {}  # assistants that look facts up
        # whether an assistant reads earlier turns, if that is known
        self._conversations_read: dict[str, bool] = {}
        self._loading, self._searching = threading.Lock(), threading.Lock()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The models of the session."""
        return self._speakers

    def ready(self, speaker: str) -> bool:
        """Whether the model is loaded."""
        return speaker in self._loaded

    def load(self, speaker: str, report: ProgressCallback = lambda phase, fraction: None) -> None:
        """Load a model, an arm or ``base``, unless it is loaded.

        Raises:
            ModelError: The model is not trained or cannot be loaded.
        """
        if speaker not in self._speakers:
            raise ModelError(
                m("unknown arm {speaker!r}", speaker=speaker),
                where=self._where,
                remedy=m("Ask {speakers}", speakers=" or ".join(self._speakers)),
            )
        if not self.ready(speaker):
            report(m("Waiting for the other model to load"), 0.0)
            with self._loading:  # it changes the default dtype of the process
                if not self.ready(speaker):
                    self._load(speaker, report)

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation, until ``stop_event`` is set.

        Yields:
            One chunk for each token that adds text, then a last one with ``finish``.

        Raises:
            ModelError: The arm is not trained, its model cannot be loaded, or the conversation is too long.
        """
        if not self.ready(speaker):
            self.load(speaker)
        _, prompter = self._loaded[speaker]
        if stop_event.is_set():  # set during loading
            yield Chunk("", 0, None, 0.0, "cancelled")
            return
        context = self._context(speaker)

        def find(look: Look) -> Found:
            retriever = self._grounded[speaker].retriever
            with self._searching:  # assistants share the embedder
                searched = retriever if sampling.corrected else retriever.measured
                return searched.find([look], context=context)[0]

        def generate(prompt: Sequence[Message], most: int) -> Generation:
            ids = prompter.prompt_ids(list(prompt))
            if len(ids) >= context:
                raise ModelError(
                    m(
                        "the conversation has {ids} tokens, but the context length of the model is {context}",
                        ids=len(ids),
                        context=context,
                    ),
                    where="chat",
                    remedy=m("Clear the conversation and ask a shorter question"),
                )
            certainties: list[float] = []
            limit = min(most, context - len(ids))
            chunks = self._generate(speaker, ids, limit, sampling, stop_event, certainties)
            return Generation(len(ids), chunks, certainties)

        def cut(text: str, most: int) -> tuple[str, int, Finish]:
            ids = prompter.text_ids(text)
            if len(ids) <= most:
                return text, len(ids), "stop"
            first = ids[:most]
            return prompter.decode(first), len(first), "length"

        if speaker in self._grounded and sampling.look_up:
            grounded = self._grounded[speaker]
            yield from grounded.answer(messages, find, generate, cut, sampling.max_new_tokens)
        else:
            read = messages if self._conversations_read.get(speaker, True) else alone(messages)
            yield from generate(read, sampling.max_new_tokens).chunks

    @property
    def holds_models(self) -> bool:
        """Whether the session holds memory that a run needs."""
        return bool(self._loaded)

    def close(self) -> None:  # noqa: B027 - PyTorch's models are freed with the session
        """End processes that the session has started."""

    def _context(self, speaker: str) -> int:
        config = self._loaded[speaker][0].config
        return int(getattr(config, "max_position_embeddings", None) or UNKNOWN_LENGTH)

    def _generate(
        self,
        speaker: str,
        ids: Sequence[int],
        limit: int,
        sampling: Sampling,
        stop_event: threading.Event,
        certainties: list[float],
    ) -> Iterator[Chunk]:
        model, prompter = self._loaded[speaker]
        # removed during use, so that a failed or a concurrent answer does not reuse an inconsistent cache
        conversation = self._conversations.pop(speaker, KVCacheState())
        tokens = generate_tokens(
            model, prompter, ids, limit, sampling, stop_event, conversation, certainties
        )
        try:
            yield from _chunks(tokens, prompter, stop_event)
        except GeneratorExit:  # declined
            self._conversations[speaker] = conversation
            raise
        self._conversations[speaker] = conversation

    def _look_up(self, study: Study, prompter: Any, runs: Mapping[str, str | None]) -> None:
        # give models (model → its training run, or ``None``) of a study access to its index, if they are grounded
        conversations = reads_conversations(study)
        self._conversations_read |= dict.fromkeys(runs, conversations)
        if not study.config.grounded:
            return
        from assistant_builder.data import load_split
        from assistant_builder.retrieval.decline import FILE, rule_of
        from assistant_builder.retrieval.passages import tuned_retriever
        from assistant_builder.retrieval.promise import kept

        known = (each.retriever for each in self._grounded.values())
        same = next((each for each in known if each.study == study), None)
        retriever = same or tuned_retriever(study, prompter)
        pairs = load_split(study.folder / "data", "train")
        taught = tuple(sorted({pair.answer for pair in pairs if not pair.answerable}))
        for name, run in runs.items():
            rule = rule_of(study.arm_folder(run) / FILE) if run is not None else None
            if run is not None and rule is not None:
                rule = kept(study, split_run(run)[0], rule)
            self._grounded[name] = Grounded(retriever, rule, taught, conversations)

    @abc.abstractmethod
    def _load(self, speaker: str, report: ProgressCallback) -> None:
        """Put a model and its tokenizer into ``_loaded``."""


class ChatSession(Session):
    """The assistants of a study.

    Each assistant has its own base. The untuned base model shares the weights of the LoRA assistant, or of the first
    arm if the study does not train LoRA. ``speakers`` are arms that the study trains, and ``base``; None for every arm.
    """

    def __init__(self, study: Study, speakers: Sequence[str] | None = None) -> None:
        super().__init__((*ARMS, BASE) if speakers is None else speakers, f"study {study.name}")
        self._study = study

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        if speaker in self._loaded:
            return
        report(m("Starting PyTorch"), 0.05)
        from assistant_builder.models.loading import load_arm

        if speaker != BASE:
            kind = ARMS[speaker].base_label
            if ARMS[speaker].storage is None:
                kind = f"{METHODS[self._study.config.model.quant_type].bits}-bit"
            report(m("Reading the {kind} base", kind=kind), 0.4)
            model, prompter = load_arm(self._study, speaker, hold=True)
            prepare_for_inference(model)
            self._look_up(self._study, prompter, {speaker: speaker})
            self._loaded[speaker] = model, prompter  # last: memory may run out before
            return
        arm = base_owner(self._speakers)
        if ARMS[arm].rounds:  # its own weights are merged
            from assistant_builder.models.chat_template import ChatTokenizer
            from assistant_builder.models.loading import arm_spec, load_base

            spec = arm_spec(self._study, arm, hold=True)
            base = load_base(spec)
            prompter = ChatTokenizer.load(spec.folder, self._study.template_date)
            prepare_for_inference(base)
        else:
            self._load(arm, report)
            model, prompter = self._loaded[arm]
            base = clone_sharing_weights(model.get_base_model())
        self._look_up(self._study, prompter, {BASE: None})
        self._loaded[BASE] = base, prompter


def _chunks(tokens: Iterator[int], prompter: Any, stop_event: threading.Event) -> Iterator[Chunk]:
    started = time.perf_counter()
    first: float | None = None
    generated: list[int] = []
    shown = ""
    finish: Finish = "length"
    try:
        for token in tokens:
            if first is None:
                first = time.perf_counter() - started
            if token in prompter.stop_ids:
                finish = "stop"
                break
            generated.append(token)
            text = prompter.decode(generated)
            # A character that spans several tokens decodes to U+FFFD until its last byte is generated.
            if not text.endswith("\ufffd") and len(text) > len(shown):
                new, seconds = text[len(shown) :], time.perf_counter() - started
                yield Chunk(new, len(generated), first, seconds)
                shown = text
            if stop_event.is_set():
                finish = "cancelled"
                break
    finally:
        tokens.close()  # type: ignore[attr-defined]
    rest = prompter.decode(generated)[len(shown) :]
    yield Chunk(rest, len(generated), first, time.perf_counter() - started, finish)


def clone_sharing_weights(base: Any) -> Any:
    """Clone a base model without its adapters over the same weights, so that both can answer concurrently.

    Only the module tree is copied: parameters and buffers are shared, and each adapted layer is replaced by the layer
    that it wraps. Disabling or switching adapters instead would also affect an answer that is being generated. ``base``
    is a transformers model, or the one inside a ``PeftModel`` whose adapters are not merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    for layer in base.modules():
        shared |= {id(value): value for value in method_of(layer).constants(layer)}
        if isinstance(layer, BaseTunerLayer):
            shared[id(layer)] = layer.get_base_layer()
    return copy.deepcopy(base, shared)


def prepare_for_inference(*models: Any) -> None:
    """Cast adapters and prepack weights of models over the same weights once, instead of for every token."""
    from assistant_builder.inference.packed_batch import supports_packing
    from assistant_builder.inference.prepacked_linear import cast_adapters, prepack

    for model in models:
        cast_adapters(model, model.dtype)
    if supports_packing(models[0]):
        prepack(*models)
