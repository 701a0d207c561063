"""Reads the live feed in a thread, for `flowserver top`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

import orjson

from .admin_client import AdminClient, AskError

AGAIN = 1.0
"""Seconds until the relay is asked again, where it could not be."""
MOST_LINE = 4 << 20
"""Bytes of one object."""


class Feed:
    """Writes a byte to the pipe `wake`, which does not block, whenever there is something new."""

    def __init__(self, client: AdminClient, wake: int) -> None:
        self._client = client
        self._wake = wake
        self._query = ""
        self._socket: socket.socket | None = None
        """Of the present feed."""
        self._asked = threading.Condition()
        self.latest: dict[str, Any] | None = None
        """The last object; None: none has come."""
        self.trouble = ""
        """Why none comes; empty: they do."""
        threading.Thread(target=self._run, name="live feed", daemon=True).start()

    def show(self, query: str) -> None:
        """Ask for this view from now on."""
        with self._asked:
            if query == self._query:
                return
            self._query = query
            self._asked.notify()
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while True:
            with self._asked:
                self._asked.wait_for(lambda: self._query)
                query = self._query
            try:
                self._read(query)
            except (AskError, ValueError) as error:
                if query == self._query:
                    self._tell(trouble=str(error))
                    self._wait_for_another_than(query)

    def _read(self, query: str) -> None:
        """Until another view is wanted. Raises AskError, and ValueError at what is no feed."""
        with self._client.open("GET", f"/live?{query}", connected=self._connected) as answer:
            if answer.getheader("content-type", "") != "text/event-stream":
                raise AskError(f"{self._client.where} does not answer as a relay does")
            while query == self._query:
                line = answer.readline(MOST_LINE)
                if not line:
                    raise AskError("the relay has ended the feed")
                if line.startswith(b"data: ") and query == self._query:
                    self.latest = orjson.loads(line[6:])
                    self._tell()

    def _connected(self, connection: socket.socket) -> None:
        with self._asked:
            self._socket = connection

    def _wait_for_another_than(self, query: str) -> None:
        """For some time."""
        with self._asked:
            self._asked.wait_for(lambda: self._query != query, AGAIN)

    def _tell(self, trouble: str = "") -> None:
        self.trouble = trouble
        with contextlib.suppress(BlockingIOError):  # it is full, so it wakes
            os.write(self._wake, b"f")
