"""Replies of hostile endpoints: what expands without bounds is not decompressed."""

import asyncio
import gzip
import zlib
from typing import Any

import pytest

from assistant_builder.chat_endpoint import ChatEndpoint, EndpointError, RetryPolicy
from tests.http_server import Handler, Server, running

REPLY = b'{"choices": [{"message": {"content": "Yes."}}]}'
BOMB = gzip.compress(gzip.compress(bytes(2**26)))
"""A hundred bytes that become 64 MB in one piece; the same in gigabytes has a few kilobytes."""


class Compressed(Handler):
    def do_POST(self) -> None:
        self.body()
        server: Any = self.server
        coding, content = server.reply
        self.send(200, content, {"Content-Encoding": coding})


def ask(coding: str, content: bytes) -> str:
    async def asked(url: str) -> str:
        async with ChatEndpoint(url, "m", patience=RetryPolicy(10.0, 1)) as endpoint:
            return await endpoint.ask([{"role": "user", "content": "Is it?"}])

    server: Any = Server(Compressed)
    server.reply = coding, content
    with running(server):
        return asyncio.run(asked(server.endpoint))


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip,deflate", "br", "zstd", "GZIP, gzip"])
def test_a_reply_that_expands_without_bounds_is_not_read(coding):
    with pytest.raises(EndpointError, match="compressed in an unknown way"):
        ask(coding, BOMB)


def test_usual_compression_is_read_up_to_the_bound():
    assert ask("gzip", gzip.compress(REPLY)) == ask("deflate", zlib.compress(REPLY)) == "Yes."
    assert ask("identity", REPLY) == "Yes."
    with pytest.raises(EndpointError, match="longer than 1,000,000 bytes"):
        ask("gzip", gzip.compress(bytes(2**24)))
