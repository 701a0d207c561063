"""A DNS whose answers, delays and failures a test decides."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

Found = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]


def found(*addresses: str) -> Found:
    """What getaddrinfo returns for these addresses."""
    entries: Found = []
    for address in addresses:
        if ":" in address:
            entries.append((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0)))
        else:
            entries.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)))
    return entries


class FakeNames:
    """Stands in for `socket.getaddrinfo`. It is called in threads."""

    def __init__(self, **answers: tuple[str, ...] | Exception) -> None:
        """Dots in names are underscores here."""
        self.answers: dict[str, tuple[str, ...] | Exception] = {}
        for name, answer in answers.items():
            self.answers[name.replace("_", ".")] = answer
        self.asked: Counter[str] = Counter()
        self.released = threading.Event()
        """Names of `hanging` are answered from then on."""
        self.hanging: set[str] = set()

    def __call__(self, host: str, port: object, **options: object) -> Found:
        self.asked[host] += 1
        if host in self.hanging:
            self.released.wait(60)
        answer = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(answer, Exception):
            raise answer
        return found(*answer)
