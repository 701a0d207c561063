"""Asking a relay's admin listener, or its control socket, for something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from .wire import Message, Wire, request

TOKEN = "a-token-that-nobody-guesses"


async def told(
    where: int | Path,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: bytes | None = None,
    headers: tuple[str, ...] = (),
) -> Message:
    """`where`: the admin listener's port, or the control socket's path."""
    wire = await (Wire.connect(where) if isinstance(where, int) else Wire.connect_path(str(where)))
    lines = [*headers, *([f"Authorization: Bearer {token}"] if token is not None else [])]
    try:
        await wire.send(request(method, path, lines, body=body))
        return await wire.response()
    finally:
        wire.close()


async def table(
    where: int | Path, method: str, path: str, *, token: str | None = None, body: bytes | None = None
) -> Any:
    """The same where it succeeds: the JSON of the answer."""
    answer = await told(where, method, path, token=token, body=body)
    assert answer.status in (200, 202), answer.body
    return orjson.loads(answer.body)
