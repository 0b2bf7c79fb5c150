"""Drafts by a language model: other wordings of pairs, and questions about documents.

The model is the base model of a study, or one behind an OpenAI-compatible endpoint.
Drafts are proposals. Nothing uses them before a person has accepted them. The base model runs in a process of its own:
``python -m assistant_builder.drafting`` answers a request ``{"model": {…}, "prompts": […]}`` with one part per prompt.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from assistant_builder.arms import LORA
from assistant_builder.chat_endpoint import ChatEndpoint, EndpointError, endpoint_url
from assistant_builder.child_process import (
    compute_environment,
    configure_libraries,
    python_command,
)
from assistant_builder.child_protocol import Child, Events, read_requests
from assistant_builder.config import ModelConfig
from assistant_builder.data import Message, Pair, load_pairs
from assistant_builder.data.language import language_of
from assistant_builder.data.wordings import (
    Wording,
    check_wordings,
    draft_prompt,
    pairs_to_word,
    parse_drafts,
)
from assistant_builder.documents.questions import (
    PEOPLE,
    DocumentQuestion,
    QuestionKind,
    Questions,
    parse_questions,
    question_prompt,
)
from assistant_builder.documents.templates import draft_from_templates
from assistant_builder.errors import (
    AssistantBuilderError,
    ConfigError,
    EvaluationError,
    ModelError,
    error_texts,
)
from assistant_builder.i18n import N_, m
from assistant_builder.redaction import DRAFT_KEY
from assistant_builder.study import Study

URL_VARIABLE = "ASSISTANT_BUILDER_DRAFT_URL"
"""Environment variable with the endpoint that the key belongs to; the key is sent to no other."""
SMALL_MODEL_NOTE = N_(
    "The bundled model is small (135 million parameters): most of its drafts repeat the question or "
    "miss the point. Look every one over, or use an endpoint with a larger model."
)
_CONCURRENT = 4
_MAX_TOKENS = 96

Progress = Callable[[int, int], None]


def draft_wordings(
    pairs: Sequence[Pair],
    number: int,
    *,
    model: ModelConfig | None = None,
    url: str = "",
    name: str = "",
    on_progress: Progress = lambda done, total: None,
) -> list[Wording]:
    """Draft wordings for each fact with one wording.

    Args:
        pairs: The usable pairs of a file.
        number: Wordings per fact.
        model: The base model that drafts; None: the model ``name`` of the endpoint ``url``.
        url: Base URL of an OpenAI-compatible server; it receives the questions and answers.
        name: Name of the model at the endpoint.
        on_progress: Called with the numbers of finished facts and of all.

    Raises:
        ConfigError: The endpoint is not a URL, or has no model name.
        EvaluationError: The endpoint does not answer.
        ModelError: The base model cannot be used.
    """
    single = pairs_to_word(pairs)
    prompts = [draft_prompt(pair, number) for pair in single]
    found: list[Wording] = []
    on_progress(0, len(single))
    for done, (place, reply) in enumerate(_replies(prompts, model, url, name), start=1):
        found += parse_drafts(reply, single[place], number)
        on_progress(done, len(single))
    return sorted(check_wordings(pairs, found), key=lambda wording: wording.row)


def draft_questions(
    study: Study,
    number: int = 2,
    *,
    base: bool = False,
    url: str = "",
    name: str = "",
) -> tuple[list[DocumentQuestion], int]:
    """Draft questions about the documents of a study; they are proposed, and nothing uses them.

    Kept are those whose own statements are found first, with no other answer as near.

    Args:
        study: A study with documents; no step needs to be done.
        number: Questions of a statement at most.
        base: Whether the base model of the study drafts, in addition to templates.
        url: Base URL of an OpenAI-compatible server that drafts alone; it receives the statements.
        name: Name of the model at the endpoint.

    Returns:
        The questions that were added, and how many were drafted.

    Raises:
        ConfigError: The study has no documents, or the endpoint is not a URL or has no model name.
        EvaluationError: The endpoint does not answer.
        ModelError: The base model cannot be used.
    """
    from assistant_builder.retrieval.copying import study_passages
    from assistant_builder.retrieval.drafted import kept_drafts

    passages = study_passages(study)
    waiting = {passages.statement(fact).key for fact in passages.retriever.waiting_facts}
    statements = [each for each in passages.statements if each.key not in waiting]
    drafts: list[DocumentQuestion] = []
    if not url:
        drafts = draft_from_templates(statements, language_of, number)
    if url or base:
        prompts = [question_prompt(each, number) for each in statements]
        model, origin = (None, name) if url else (study.config.model, study.config.model.base)
        for place, reply in _replies(prompts, model, url, name):
            drafts += parse_questions(reply, statements[place], number, origin.strip())
    kept = kept_drafts(passages, drafts, study.config.retrieval.facts)
    return Questions(study).add(kept), len(drafts)


def add_people_questions(study: Study, path: Path) -> list[DocumentQuestion]:
    """Add questions that people asked about the documents, from a file with questions and answers; they only test.

    A row that is not answerable (column ``answerable``) is a question that the documents do not answer.

    Raises:
        ConfigError: The study has no documents.
        DataError: The file cannot be read, or has no question and answer columns.
    """
    from assistant_builder.retrieval.copying import study_passages
    from assistant_builder.retrieval.drafted import supporting_keys

    passages = study_passages(study)
    found = []
    for pair in load_pairs(path).pairs:
        keys = supporting_keys(passages, pair.question, pair.answer) if pair.answerable else ()
        kind: QuestionKind = (
            "two" if len(keys) > 1 else "part" if pair.answerable else "unanswerable"
        )
        found.append(DocumentQuestion(pair.question, pair.answer, keys, kind, PEOPLE, "accepted"))
    return Questions(study).add(found)


def _replies(
    prompts: Sequence[str], model: ModelConfig | None, url: str, name: str
) -> Iterator[tuple[int, str]]:
    return _base_replies(model, prompts) if model else _endpoint_replies(url, name, prompts)


def _endpoint_replies(url: str, name: str, prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
    address = endpoint_url(url.strip())
    if address is None or address.userinfo:
        raise ConfigError(
            m("{url!r} is not the URL of an endpoint", url=url.strip()),
            remedy=m("Write it like http://127.0.0.1:8000/v1, without a key"),
        )
    if not name.strip():
        raise ConfigError(
            m("the endpoint needs the name of a model"),
            remedy=m("Write the name that its server uses"),
        )
    key = (
        os.environ.get(DRAFT_KEY)
        if url.strip() == os.environ.get(URL_VARIABLE, "").strip()
        else None
    )
    for start in range(0, len(prompts), _CONCURRENT):
        chunk = prompts[start : start + _CONCURRENT]
        yield from enumerate(asyncio.run(_ask(url.strip(), name.strip(), key, chunk)), start=start)


async def _ask(url: str, name: str, key: str | None, prompts: Sequence[str]) -> list[str]:
    async with ChatEndpoint(url, name, key=key) as endpoint:

        async def draft(text: str) -> str:
            try:
                return await endpoint.ask([{"role": "user", "content": text}])
            except EndpointError as error:
                if error.kind == "reply":  # no text for this one
                    return ""
                raise

        try:
            return await asyncio.gather(*map(draft, prompts))
        except EndpointError as error:
            keyed = (
                m(
                    "Set {key} to the key and {url} to this URL in the environment of the program",
                    key=DRAFT_KEY,
                    url=URL_VARIABLE,
                )
                if error.kind == "key"
                else m("Check URL and model name, and that its server runs")
            )
            raise EvaluationError(
                m("the endpoint does not draft: {words}", words=error.words),
                where=endpoint.host,
                remedy=keyed,
            ) from error


def _base_replies(model: ModelConfig, prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
    command = python_command("-m", "assistant_builder.drafting")
    child = Child(command, compute_environment())
    child.send({"model": model.model_dump(mode="json"), "prompts": list(prompts)})
    place = 0
    with closing(child.events()) as events:
        for event in events:
            if event["event"] == "result":
                return
            if event["event"] == "error":
                raise ModelError(**error_texts(event["error"]))
            yield place, event["part"]
            place += 1
    raise ModelError(
        m("the base model stopped: {last_words}", last_words=child.last_words),
        remedy=m("Close other programs, and draft again, or use an endpoint"),
    )


def _draft_here(request: Mapping[str, Any]) -> Iterator[str]:
    """The replies of the base model, which is loaded into this process."""
    from assistant_builder.inference.chunks import Sampling
    from assistant_builder.inference.generate import generate_tokens
    from assistant_builder.inference.session import KVCacheState
    from assistant_builder.models.catalog import resolve
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.models.fetch import fetch
    from assistant_builder.models.loading import base_spec, load_base

    model = ModelConfig.model_validate(request["model"])
    folder = fetch(resolve(model.base), revision=model.revision)
    base = load_base(base_spec(model, folder, LORA.base_storage(model.quant_type)))
    prompter = ChatTokenizer.load(folder)
    for text in request["prompts"]:
        ids = prompter.prompt_ids([Message("user", text)])
        tokens: list[int] = []
        stream = generate_tokens(
            base,
            prompter,
            ids,
            _MAX_TOKENS,
            Sampling(temperature=0.7, top_p=0.9, seed=0),
            threading.Event(),
            KVCacheState(),
        )
        for token in stream:
            if token in prompter.stop_ids:
                break
            tokens.append(token)
        stream.close()  # type: ignore[attr-defined]
        yield prompter.decode(tokens)


def main() -> None:
    """The process of the base model."""
    configure_libraries()
    events = Events()
    for request in read_requests():
        try:
            for reply in _draft_here(request):
                events.emit("part", part=reply)
            events.emit("result", result=None)
        except AssistantBuilderError as error:
            events.emit("error", error=error.to_record())


if __name__ == "__main__":
    main()
