"""Reading requests: the part that the dialects share. No I/O."""

from __future__ import annotations

from typing import Any

import orjson

from .dialect import BadRequest, Plan
from .script import ENDLESS, MAX_EVENTS_AT_ONCE, Script

Request = dict[str, Any]


def parse(body: bytes) -> Request:
    """The request's JSON. Raises BadRequest, as all of this file."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise BadRequest(f"the body is not JSON: {problem}") from None
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object")
    return request


def model(name: object) -> str:
    """A model's name; without what would look like a mark of `events` in JSON."""
    if not isinstance(name, str) or not name or not name.isprintable() or "\\" in name:
        raise BadRequest("model must be a string of printable characters without a backslash", "model")
    return name


def flag(request: Request, name: str) -> bool:
    value = request.get(name) or False
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", name)
    return value


def items(request: Request, name: str) -> list[Any]:
    value = request.get(name, [])
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list", name)
    return value


def section(request: Request, name: str) -> Request:
    """An object within the request; {} when there is none."""
    value = request.get(name) or {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", name)
    return value


def token_limit(request: Request, *names: str) -> int | None:
    """The least that any of the fields allows; None: no limit."""
    limits = [_positive(request[name], name) for name in names if request.get(name) is not None]
    return min(limits, default=None)


def _positive(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadRequest(f"{name} must be a whole number, 1 or more", name)
    return value


def words(*prompt: object) -> int:
    """The prompt's tokens: the words of its texts, however the dialect nests them."""
    count = 0
    left: list[object] = list(prompt)
    while left:
        value = left.pop()
        if isinstance(value, str):
            count += len(value.split())
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += [value.get(key) for key in ("content", "parts", "text")]
    return count


def plan(script: Script, *, model: str, streamed: bool, prompt_tokens: int, limit: int | None) -> Plan:
    """What the script asks for, within the request's limit; reasoning tokens count like any others."""
    tokens, reasoning = script.events or ENDLESS, script.reasoning
    limited = limit is not None and limit < reasoning + tokens
    if limit is not None:
        reasoning = min(reasoning, limit)
        tokens = min(tokens, limit - reasoning)
    if not streamed and tokens > MAX_EVENTS_AT_ONCE:
        allowed = f"an answer that is not streamed has up to {MAX_EVENTS_AT_ONCE} tokens"
        raise BadRequest(f"{allowed}: not so with x-simulate: events={script.events}", "events")
    return Plan(
        model=model,
        streamed=streamed,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        reasoning=reasoning,
        limited=limited,
        whole_bytes=script.whole,
    )
