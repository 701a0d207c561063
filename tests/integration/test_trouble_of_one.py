"""What a provider refuses to one key or one model, others still get."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.lab import Lab
from ..support.provider import answering
from ..support.topology import toml
from ..support.wire import Message, request, response


def _answer(message: Message) -> bytes:
    if message.get("authorization") == "Bearer a":
        return response(b"enough", ["Retry-After: 60"], status="429 Too Many Requests")
    if b'"cold"' in message.body:
        return response(b"loading", status="503 Service Unavailable")
    return response(b"ok")


async def test_a_429_is_about_the_key_that_was_sent(lab: Lab) -> None:
    _, _, client = await lab.between(answering(_answer))
    for key, body in (("a", b"enough"), ("b", b"ok"), ("a", b"enough"), ("b", b"ok")):
        await client.send(request(headers=[f"Authorization: Bearer {key}"]))
        assert (await client.response()).body == body


async def test_a_503_is_about_the_model(lab: Lab) -> None:
    _, _, client = await lab.between(answering(_answer), breaker_failures=2)
    for model, body in (*[("cold", b"loading")] * 4, ("warm", b"ok"), ("cold", b"loading"), ("warm", b"ok")):
        await client.send(request("POST", "/v1/chat/completions", body=b'{"model":"%b"}' % model.encode()))
        assert (await client.response()).body == body


@pytest.mark.parametrize("key", ["a", "b"])
async def test_who_is_refused_goes_to_the_next_provider_at_once(lab: Lab, tmp_path: Path, key: str) -> None:
    first, second = await lab.provider(answering(_answer)), await lab.provider(answering(response(b"second")))
    relay = await lab.relay(None, config=toml(tmp_path, {"a": first.url, "b": second.url}))
    client = await lab.client(relay.port)
    for _ in range(3):
        await client.send(request(headers=[f"Authorization: Bearer {key}"]))
        assert (await client.response()).body == (b"second" if key == "a" else b"ok")
    assert len(first.requests) == (1 if key == "a" else 3)
