"""Keeps what the server is asked, if it is started with ``--remember``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from assistant_builder.chat.visitor_log import Asked, VisitorLog, log_file
from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.engine import GenerationRequest, StreamChunk
from assistant_builder.serving.registry import ModelRegistry


def open_logs(models: ModelRegistry, config: ServingConfig) -> dict[str, VisitorLog]:
    """The log of each assistant by its id, one for each study; none if nothing is remembered."""
    if config.remember == "nothing":
        return {}
    logs = {
        file: VisitorLog(file, config.remember, config.keep_days)
        for file in {log_file(assistant.root) for assistant in models.assistants}
    }
    return {assistant.id: logs[log_file(assistant.root)] for assistant in models.assistants}


async def remembered(
    chunks: AsyncGenerator[StreamChunk, None],
    request: GenerationRequest,
    log: VisitorLog | None,
    id: str,
    visitor: str,
) -> AsyncGenerator[StreamChunk, None]:
    """The chunks of an answer, which is kept in the log when it is complete."""
    text = ""
    async with aclosing(chunks):
        async for chunk in chunks:
            text += chunk.text
            if chunk.finish and log is not None:
                found, version = chunk.grounding or {}, request.assistant.version
                state: Asked = "clarified" if found.get("asks_back") else "open"
                log.asked(
                    id,
                    visitor,
                    version,
                    request.messages[-1].content,
                    text,
                    declined=bool(found.get("declined")),
                    state="talk" if found.get("mode") == "reply" else state,
                    judged=chunk.judged,
                )
                # the questions of a message that have no answer wait for one, too
                for number, part in enumerate(found.get("missing", ())):
                    log.asked(f"{id}.{number}", visitor, version, part, "", declined=True)
            yield chunk
