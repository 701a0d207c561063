"""Providers that do what a test's script says, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from .wire import Message, Wire, response


class Caller(Wire):
    """A connection that the relay made to a provider."""

    def __init__(self, connection: socket.socket, requests: list[Message]) -> None:
        super().__init__(connection)
        self._requests = requests

    async def head(self) -> Message:
        message = await super().head()
        self._requests.append(message)
        return message


Script = Callable[[Caller], Awaitable[None]]
"""Plays one connection. When it returns the connection stays as it is; the script ends it if it should end."""


class Provider:
    """Listens on a free port and plays its script on every connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: list[asyncio.Task[None]] = []
        self.callers: list[Caller] = []
        """The connections, in order."""
        self.requests: list[Message] = []
        """The requests, in order; a head counts when it is whole."""
        self.port = 0
        self._url = ""

    @property
    def url(self) -> str:
        return self._url or f"http://127.0.0.1:{self.port}"

    async def start(self, *, receive_buffer: int | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. `receive_buffer` bounds what the kernel takes while a script does not read."""
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listening.bind((host, port))
        self._listening.listen(512)
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    async def start_at(self, path: str, *, backlog: int = 512) -> None:
        """Listen on a Unix socket."""
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path)
        self._listening.listen(backlog)
        self._listening.setblocking(False)
        self._url = f"http+unix://{quote(path, safe='')}"
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    async def close(self) -> None:
        """End everything. Raises what a script raised, so that a failed assertion in it fails the test."""
        asyncio.get_running_loop().remove_reader(self._listening)
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for caller in self.callers:
            caller.close()
        self._listening.close()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, OSError | EOFError):
                raise result

    def _accept(self) -> None:
        """No task does this: one that is cancelled would lose what it has just accepted."""
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection.setblocking(False)
        caller = Caller(connection, self.requests)
        self.callers.append(caller)
        self._tasks.append(asyncio.get_running_loop().create_task(self._play(caller)))

    async def _play(self, caller: Caller) -> None:
        await self._script(caller)


def answering(answer: bytes | Callable[[Message], bytes]) -> Script:
    """A script that gives every request of a connection the same answer, or what `answer` makes of it."""

    async def script(caller: Caller) -> None:
        with contextlib.suppress(EOFError):
            while True:
                message = await caller.request()
                await caller.send(answer if isinstance(answer, bytes) else answer(message))

    return script


async def ok(caller: Caller) -> None:
    """Answers every request with 200 and a short body."""
    await answering(response(b"ok"))(caller)


async def silent(caller: Caller) -> None:
    """Takes the request and says nothing."""
    await caller.request()


class Counting:
    """A script that counts how many requests it has at once, each for `seconds`, and in all. One whose relay is gone is
    answered no more."""

    def __init__(self, answer: bytes, seconds: float) -> None:
        self._answer = answer
        self._seconds = seconds
        self.now = self.most = self.all = 0

    async def __call__(self, caller: Caller) -> None:
        try:
            while True:
                await caller.request()
                self.now += 1
                self.all += 1
                self.most = max(self.most, self.now)
                try:
                    await asyncio.sleep(self._seconds)
                finally:
                    self.now -= 1
                await caller.send(self._answer)
        except (EOFError, OSError):
            pass
