"""Messages between a worker and the parent: JSON lists, each after its length in four bytes. No I/O."""

from __future__ import annotations

from typing import Any

import orjson

MOST = 1 << 20
"""Most bytes of one message: far more than limits and providers need."""
_LENGTH = 4

Message = list[Any]


class BrokenFrame(Exception):
    """The other end sent something invalid: the connection can't be used any more."""


def pack(message: Message) -> bytes:
    body = orjson.dumps(message)
    return len(body).to_bytes(_LENGTH, "little") + body


class FrameReader:
    """Splits the received bytes into messages."""

    __slots__ = ("_unread",)

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> list[Message]:
        """Returns the messages that are complete. Raises BrokenFrame."""
        if self._unread:
            data = self._unread + data
        messages: list[Message] = []
        at, end = 0, len(data)
        while end - at >= _LENGTH:
            begin = at + _LENGTH
            size = int.from_bytes(data[at:begin], "little")
            if size > MOST:
                raise BrokenFrame(f"a message of {size} bytes")
            if end - begin < size:
                break
            at = begin + size
            messages.append(_read(data[begin:at]))
        self._unread = data[at:]
        return messages


def _read(body: bytes) -> Message:
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BrokenFrame(str(error)) from None
    if not isinstance(message, list) or not message:
        raise BrokenFrame("not a list")
    return message
