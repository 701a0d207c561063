"""A provider that is slow to begin for a share of its requests, whoever asks.

`python -m bench.moody PORT SHARE SLOW SEED`. It sends the head and a role at once, as vLLM does, then the first token
after a time of its own, and the end.
"""

from __future__ import annotations

import asyncio
import random
import sys

from flowserver.http.h1_chunked import encode_chunk

USUAL = 0.1
"""Seconds to the first token, in the median."""
SPREAD = 0.25
"""Of the logarithm of that."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"token"}}]}\n\n'
_END = encode_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Moody:
    """Its connections."""

    def __init__(self, share: float, slow: float, seed: int) -> None:
        """`share` of the requests get their first token after `slow` seconds."""
        self._share = share
        self._slow = slow
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                writer.write(HEAD + encode_chunk(_ROLE))
                await asyncio.sleep(self._seconds())
                writer.write(encode_chunk(_TOKEN) + _END)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _seconds(self) -> float:
        if self._random.random() < self._share:
            return self._slow
        return USUAL * self._random.lognormvariate(0.0, SPREAD)


async def main(port: int, share: float, slow: float, seed: int) -> None:
    server = await asyncio.start_server(Moody(share, slow, seed).serve, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
