"""The chat widget for websites: its script, a page with it, and what visitors may ask of the assistant.

Visitors need no key. They reach the paths of :data:`PATHS` alone, from pages of allowed origins, with the site's public
token, which can only ask. Requests are limited per visitor and in all, and wait in a queue whose places are shown.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.chat.visitor_log import Kept, VisitorLog, new_id
from assistant_builder.config.serving import ServingConfig
from assistant_builder.data import Pair, load_pairs, load_split
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import direction, language, m, negotiate, t, use_language
from assistant_builder.inference.conversing import GREETING, example_questions
from assistant_builder.retrieval.decline import Mode
from assistant_builder.retrieval.index import facts_of
from assistant_builder.serving.engine import Engine
from assistant_builder.serving.metrics import Metrics
from assistant_builder.serving.registry import ModelRegistry, ServedModel
from assistant_builder.serving.remember import remembered
from assistant_builder.serving.schemas import (
    ApiError,
    ChatRequest,
    EventStream,
    Feedback,
    Label,
    server_sent_event,
    unknown_host,
    validation_error,
)
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.serving.visitor_limits import Limits, VisitorLimits, VisitorQueue
from assistant_builder.serving.website import Website
from assistant_builder.study import Study
from assistant_builder.web.access import AllowedHosts
from assistant_builder.web.body_limit import read_body, replay_body
from assistant_builder.web.client_address import TrustedProxies, client_key

SCRIPT_PATH, PAGE_PATH, START_PATH, ASK_PATH = "/widget.js", "/chat", "/widget/start", "/widget/ask"
FEEDBACK_PATH = "/widget/feedback"
PATHS = frozenset((SCRIPT_PATH, PAGE_PATH, START_PATH, ASK_PATH, FEEDBACK_PATH))
MAX_QUESTION = 1_000
"""Characters of a question."""
MAX_TURNS = 12
"""Messages of a conversation that are sent with a question; the script sends the last ones."""
_MAX_BODY = 64 * 1024
_MAX_LANGUAGES = 200
"""Characters that are read of a list of languages."""
_TOKEN_FILE = "widget.json"
_FOLDER = Path(__file__).parent
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SCRIPT_HEADERS = {
    "Content-Type": "text/javascript; charset=utf-8",
    "Cache-Control": "public, max-age=300",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "content-type",
    "Access-Control-Max-Age": "600",
}


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=8_000)]


class _Asked(BaseModel):
    """The body of :data:`ASK_PATH`."""

    model_config = ConfigDict(extra="forbid")

    site: Label
    visitor: str = Field("", max_length=40)
    messages: list[_Turn] = Field(min_length=1, max_length=MAX_TURNS)


class _Voted(Feedback):
    """The body of :data:`FEEDBACK_PATH`."""

    site: Label


_Body = TypeVar("_Body", bound=BaseModel)


class _WidgetFile(TypedDict):
    token: str


def site_token(study: Study) -> str:
    """The public token of a study's widget, which is made once; pages contain it, and it allows asking alone."""
    path = study.folder / _TOKEN_FILE
    if not path.is_file():
        write_json(path, {"token": f"site-{secrets.token_urlsafe(18)}"})
    return str(read_json(path, _WidgetFile, remedy="Delete the file to get another token")["token"])


def embedding(url: str, token: str) -> str:
    """The line of HTML that puts the widget on a page; ``url`` is that of the server."""
    script = Markup('<script src="{}{}" data-site="{}" async></script>')
    return str(script.format(url.rstrip("/"), SCRIPT_PATH, token))


class Widget:
    """ASGI app of :data:`PATHS`, in front of the app of the endpoint, which gets all other requests.

    Raises:
        ConfigError: The server has several studies.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: Engine | EngineSwitch,
        config: ServingConfig,
        hosts: AllowedHosts,
        *,
        logs: Mapping[str, VisitorLog] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        limits, self._metrics = Limits(), metrics or Metrics()
        self._app, self._engine, self._config, self._hosts = app, engine, config, hosts
        self._name, assistant = widget_assistant(engine.models)
        root = assistant.root
        self._token, self._logs = site_token(root), logs or {}
        self._proxies = TrustedProxies(config.proxy)
        self._title = config.title or Website.of(root).title or root.title
        self._greeting = assistant.study.config.retrieval.greeting
        self._study, self._examples = assistant.study, cast("list[str] | None", None)
        self._shows_sources, self._mode = (
            assistant.shows_sources and assistant.grounded,
            assistant.mode,
        )
        self._visitors, self._queue = (
            VisitorLimits(limits),
            VisitorQueue(engine.slots, limits.waiting),
        )
        self._voters = VisitorLimits(limits)
        self._script = (_FOLDER / "widget.js").read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to visitors, and pass other requests on."""
        if scope["type"] != "http" or scope["path"] not in (*PATHS, "/"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        with use_language(negotiate(headers.get("accept-language", "")[:_MAX_LANGUAGES])):
            response, receive = await self._respond(scope, headers, receive)
            await response(scope, receive, send)

    async def _respond(
        self, scope: Scope, headers: Headers, receive: Receive
    ) -> tuple[ASGIApp, Receive]:
        origin, path = headers.get("origin"), scope["path"]
        try:
            if not self._hosts.allows_request(headers):
                raise unknown_host()
            if path in (SCRIPT_PATH, PAGE_PATH):
                if scope["method"] not in ("GET", "HEAD"):
                    raise ApiError(405, "this address is read with GET")
                return self._file(path), receive
            if path == "/":  # typed into a browser
                return RedirectResponse(PAGE_PATH), receive
            if not self._allows(scope, headers, origin):
                what = "pages of this origin may not ask; start the server with --allow-origin URL"
                raise ApiError(403, what)
            assert origin is not None
            if scope["method"] == "OPTIONS":
                return Response(status_code=204, headers={**cors(origin), **_PREFLIGHT}), receive
            if scope["method"] != "POST":
                raise ApiError(405, "this address takes POST")
            body = await read_body(receive, _MAX_BODY)
            if body is None:
                raise ApiError(413, "the conversation is too long")
            address = client_key(self._proxies.client(scope))
            if path == ASK_PATH:
                response = await self._ask(body, address)
            elif path == FEEDBACK_PATH:
                response = self._vote(body, address)
            else:
                response = await self._start(body)
            response.headers.update(cors(origin))
            return response, replay_body(body, receive)
        except ClientDisconnect:
            return Response(status_code=499), receive
        except ApiError as error:
            failed = error.response()
            self._metrics.refused(failed.status_code)
            if origin is not None and self._allows(scope, headers, origin):
                failed.headers.update(cors(origin))
            return failed, receive

    def _allows(self, scope: Scope, headers: Headers, origin: str | None) -> bool:
        own = f"{'https' if scope['scheme'] == 'https' else 'http'}://{headers.get('host', '')}"
        secure = f"https://{headers.get('host', '')}"  # the page of this server behind a proxy with https
        return origin is not None and origin in (own, secure, *self._config.allow_origin)

    def _file(self, path: str) -> Response:
        if path == SCRIPT_PATH:
            return Response(self._script, headers=_SCRIPT_HEADERS)
        page = Markup((_FOLDER / "chat.html").read_text(encoding="utf-8")).format(
            title=self._title,
            token=self._token,
            script=SCRIPT_PATH,
            language=language(),
            direction=direction(),
        )
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    def _parse(self, kind: type[_Body], body: bytes) -> _Body:
        try:
            return kind.model_validate(self._checked(body))
        except ValidationError as error:
            raise validation_error(error.errors()) from error

    def _checked(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "the request is not JSON") from error
        if not isinstance(found, dict) or not hmac.compare_digest(
            str(found.get("site", "")).encode(errors="replace"), self._token.encode()
        ):
            raise ApiError(401, "the token of the site is missing or wrong", code="invalid_api_key")
        return found

    async def _start(self, body: bytes) -> Response:
        """What the script shows: title, texts in the language of the visitor, and the contact line."""
        self._checked(body)
        if self._examples is None:  # reading the data of a study that is not split takes seconds
            self._examples = await asyncio.to_thread(opening_examples, self._study)
        with use_language(negotiate(str(self._checked(body).get("language", ""))[:_MAX_LANGUAGES])):
            contact = self._config.contact
            if contact and not re.search(r"[^\W\d]{2}\s", contact):  # a bare address or number
                contact = t("Please ask: {contact}", contact=contact)
            return JSONResponse(
                {
                    "title": self._title,
                    "contact": contact,
                    "direction": direction(),
                    "language": language(),
                    "longest": MAX_QUESTION,
                    "turns": MAX_TURNS,
                    "texts": widget_texts(self._mode, self._config.remember),
                    "greeting": self._greeting or t(GREETING),
                    "examples": self._examples,
                    "feedback": self._config.remember,
                },
                headers={"Cache-Control": "no-store"},
            )

    def _vote(self, body: bytes, address: str) -> Response:
        voted = self._parse(_Voted, body)
        self._voters.enter(address)
        self._voters.leave(address)
        for log in set(self._logs.values()):
            log.voted(voted.id, voted.vote, voted.suggestion, voted.chosen)
        return Response(status_code=204)

    async def _ask(self, body: bytes, address: str) -> Response:
        asked = self._parse(_Asked, body)
        try:
            request = ChatRequest(
                model=self._name, messages=[turn.model_dump() for turn in asked.messages]
            )
        except ValidationError as error:
            raise validation_error(error.errors()) from error
        if len(asked.messages[-1].content) > MAX_QUESTION:
            raise ApiError(
                400, f"a question has at most {MAX_QUESTION} characters", param="messages"
            )
        # first: a full queue costs a visitor none of the questions of an address
        ticket = self._queue.join()
        try:
            self._visitors.enter(address)
        except ApiError:
            self._queue.leave(ticket)
            raise

        def ended() -> None:
            self._queue.leave(ticket)
            self._visitors.leave(address)

        try:
            prepared = await self._engine.prepare(request)  # last: it takes longest
        except BaseException:
            ended()
            raise
        log, id, asked_at = self._logs.get(prepared.assistant.id), new_id(), time.monotonic()

        async def events() -> AsyncGenerator[str, None]:
            try:
                async for place in self._queue.places(ticket):
                    yield server_sent_event({"place": place})
                answer = self._metrics.measured(
                    self._engine.generate(prepared), prepared, "widget", asked_at
                )
                found = remembered(answer, prepared, log, id, asked.visitor)
                async with aclosing(found) as chunks:
                    async for chunk in chunks:
                        if chunk.text:
                            yield server_sent_event({"text": chunk.text})
                        if chunk.finish:
                            yield server_sent_event(
                                {**self._end(chunk.grounding), **({"id": id} if log else {})}
                            )
            except ApiError as error:
                yield server_sent_event({"error": str(error), "retry": error.retry_seconds})

        return EventStream(events(), on_end=ended)

    def _end(self, grounding: dict[str, Any] | None) -> dict[str, Any]:
        found = grounding or {}
        sources = [
            {"question": _title(source), "answer": source["answer"]}
            for source in found.get("sources", ())
        ]
        return {
            "end": True,
            "declined": bool(found.get("declined")),
            "sources": sources if self._shows_sources else [],
            **({"suggestions": found["suggestions"]} if found.get("suggestions") else {}),
            **({"asks_back": True} if found.get("asks_back") else {}),
            **({"reply": True} if found.get("mode") == "reply" else {}),
        }


def _title(source: Mapping[str, Any]) -> str:
    """What a source is called: its question, or the document, page and headings that it is from."""
    if not source.get("document"):
        return str(source["question"])
    page = source.get("page")
    place = f"{source['document']}, {page}" if page else source["document"]
    return " · ".join(filter(None, [place, source["question"]]))


def widget_assistant(models: ModelRegistry) -> tuple[str, ServedModel]:
    """The assistant that the widget asks, and its name there; raises ConfigError if there are several studies."""
    if len(models.aliases) != 1:
        raise ConfigError(
            m("the widget serves one {study}"),
            where=m("serve --widget"),
            remedy=m("Serve the others with another command and --port"),
        )
    (name,) = models.aliases
    found = models.find(name)
    assert found is not None
    return name, found


def opening_examples(study: Study) -> list[str]:
    """Questions that an empty conversation offers; none where the study offers none, or has no pairs."""
    config = study.config.retrieval
    if config.examples or not config.suggestions:
        return config.examples
    with suppress(AssistantBuilderError):  # an answer reports it
        if study.split_file("train").is_file():
            pairs: Sequence[Pair] = load_split(study.folder / "data", "train")
        elif study.source is not None:
            pairs = load_pairs(study.source, columns=study.config.data.columns).pairs
        else:
            return []
        return list(example_questions([fact for pair in pairs for fact in facts_of(pair)]))
    return []


def cors(origin: str) -> dict[str, str]:
    """Headers that let a page of the origin read the response."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "Retry-After",
        "Vary": "Origin",
    }


def widget_texts(mode: Mode = "tuned", kept: Kept = "nothing") -> dict[str, str]:
    """The texts of the script in the current language, for an assistant that keeps so much of a question."""
    machine = t("Answers are written by a program and may be wrong.")
    if mode == "copy":
        machine = t("Answers are copied from a list, and may not fit the question.")
    if kept == "texts":
        machine = " ".join((machine, t("Questions and answers are kept, to improve them.")))
    return {
        "open": t("Ask a question"),
        "close": t("Close"),
        "placeholder": t("Your question"),
        "send": t("Send"),
        "stop": t("Stop"),
        "you": t("You"),
        "assistant": t("Assistant"),
        "sources": t("Sources"),
        "waiting": t("Number {place} in the queue", place="{place}"),
        "failed": t("The answer failed. Please try again."),
        "offline": t("The assistant cannot be reached."),
        "busy": t("Too many questions. Please try again in {seconds} s.", seconds="{seconds}"),
        "helpful": t("Helpful"),
        "unhelpful": t("Not helpful"),
        "thanks": t("Thank you."),
        "better": t("What should it have said?"),
        "again": t("New conversation"),
        "suggested": t("Did you mean one of these?"),
        "examples": t("Example questions"),
        "machine": machine,
    }
