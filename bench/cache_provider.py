"""A model server with a prefix cache: `python -m bench.cache_provider PORT TOKENS JOURNAL`.

Like vLLM it keeps what it has computed in blocks of 16 tokens, each named by all that stands before it, and forgets
those that were not used for longest. It answers OpenAI's chat, no streams, and reports cached tokens. What is not in
the cache takes time. The journal has a line for each request that begins or ends: when, and how many are under
way then.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import OrderedDict
from hashlib import blake2b
from typing import TextIO

BYTES_PER_TOKEN = 4
BLOCK = 16 * BYTES_PER_TOKEN
PREFILL = 1 / 10_000
"""Seconds for a token of the prompt that is not in the cache."""
DECODE = 0.4
"""Seconds for an answer, on average."""
ANSWER = 400
"""Bytes of its text."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def prompt_of(messages: list[dict[str, str]]) -> bytes:
    return "".join(message["content"] for message in messages).encode()


class PrefixCache:
    """Keeps so many tokens."""

    def __init__(self, tokens: int) -> None:
        self._most = tokens * BYTES_PER_TOKEN // BLOCK
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def cached(self, text: bytes) -> int:
        """Tokens at the beginning of `text` that are there."""
        found = 0
        for name in _names(text):
            if name not in self._blocks:
                break
            self._blocks.move_to_end(name)
            found += 1
        return found * BLOCK // BYTES_PER_TOKEN

    def keep(self, text: bytes) -> None:
        for name in _names(text):
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)


def _names(text: bytes) -> list[bytes]:
    names, before = [], b""
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        before = blake2b(text[start : start + BLOCK], digest_size=8, key=before).digest()
        names.append(before)
    return names


class Server:
    def __init__(self, cache: PrefixCache, journal: TextIO) -> None:
        self.cache = cache
        self._journal = journal
        self._open = 0

    def changed(self, by: int) -> None:
        self._open += by
        self._journal.write(f"{time.monotonic()} {self._open}\n")


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._held = b""
        self._is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone = True

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, blank, rest = self._held.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if blank and length is not None and len(rest) >= int(length[1]):
            self._held = b""
            self._begin(prompt_of(json.loads(rest)["messages"]))

    def _begin(self, prompt: bytes) -> None:
        self._server.changed(1)
        cached = self._server.cache.cached(prompt)
        missing = len(prompt) // BYTES_PER_TOKEN - cached
        seconds = missing * PREFILL + random.expovariate(1 / DECODE)
        asyncio.get_running_loop().call_later(seconds, self._end, prompt, cached)

    def _end(self, prompt: bytes, cached: int) -> None:
        self._server.changed(-1)
        text = random.randbytes(ANSWER // 2).hex()
        self._server.cache.keep(prompt + text.encode())
        usage = {
            "prompt_tokens": len(prompt) // BYTES_PER_TOKEN,
            "completion_tokens": ANSWER // BYTES_PER_TOKEN,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        if not self._is_gone:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(body) + body)


async def serve(port: int, tokens: int, journal: TextIO) -> None:
    server = Server(PrefixCache(tokens), journal)
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), "127.0.0.1", port, backlog=1000
    )
    await listening.serve_forever()


if __name__ == "__main__":
    with open(sys.argv[3], "a", buffering=1) as file:
        asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), file))
