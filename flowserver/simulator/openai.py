"""Shared by OpenAI's APIs: errors and the list of models. No I/O."""

from __future__ import annotations

import orjson

from .dialect import CREATED

_KINDS = {429: "rate_limit_error"}


def error(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """The body of an error response."""
    kind = "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def models() -> bytes:
    """The body of `GET /v1/models`."""
    entries = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}
        for name in ("simulated", "simulated-small")
    ]
    return orjson.dumps({"object": "list", "data": entries})
