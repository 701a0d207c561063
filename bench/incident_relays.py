"""Two relays as they are often written, for `incident`.

Both pass on one request and its answer a connection, as bytes. `naive` reads the provider as fast as it can and hands
everything to the client's transport. `drain` waits for `StreamWriter.drain()` after each read, with the water marks and
kernel buffers that it gets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from typing import cast

import uvloop

READ_SIZE = 64 * 1024


class NaiveClient(asyncio.Protocol):
    """The client's side: what it sends goes to a connection of its own."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._provider: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        provider, _ = await loop.create_connection(lambda: NaiveProvider(self), "127.0.0.1", self._upstream)
        self._provider = provider
        provider.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        if self._provider is None:
            self._early.append(data)
        else:
            self._provider.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._provider is not None:
            self._provider.close()


class NaiveProvider(asyncio.Protocol):
    """The provider's side: write, and never look back."""

    def __init__(self, client: NaiveClient) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.transport.close()


async def drain_client(upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The loop of many tutorials."""
    provider_reader, provider_writer = await asyncio.open_connection("127.0.0.1", upstream)
    with contextlib.suppress(OSError):
        await asyncio.gather(_copy(reader, provider_writer), _copy(provider_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def serve(kind: str, port: int, upstream: int) -> None:
    """Until it is ended."""
    if kind == "naive":
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: NaiveClient(upstream), "127.0.0.1", port, backlog=4096)
    else:
        server = await asyncio.start_server(
            lambda reader, writer: drain_client(upstream, reader, writer), "127.0.0.1", port, backlog=4096
        )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("naive", "drain"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.kind, arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
