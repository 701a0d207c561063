"""How a conversation begins does not depend on how its bytes came, and any bytes may come."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.conversation import TEXT_BYTES
from tests.support.conversations import conversation

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text", "x"]), inner)
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(["messages", "input", "prompt", "system", "model", "conversation"]), JSON)


@given(BODIES, st.lists(st.integers(0, 200)))
def test_neither_spacing_nor_the_pieces_make_a_difference(body: dict[str, Any], cuts: list[int]) -> None:
    packed = orjson.dumps(body)
    spaced = json.dumps(body, indent=3, ensure_ascii=False).encode()
    whole, cut, other = conversation(packed), conversation(packed, *cuts), conversation(spaced)
    assert whole.name == cut.name == other.name
    found = whole.texts()
    assert cut.texts() == found
    assert _plain(other.texts()) == _plain(found)


def _plain(found: list[bytes]) -> list[bytes]:
    """Without what counts as it stands in the body, since there is no text in it."""
    return [text for text in found if text[:1] not in (b"[", b"{")]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_no_body_is_too_odd(body: bytes, cuts: list[int]) -> None:
    start = conversation(body, *cuts)
    assert start.name is None
    assert start.texts() == ([body[:TEXT_BYTES]] if body else [])


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", ""]), "content": st.text()}),
    min_size=1,
)


@given(MESSAGES, st.booleans())
def test_plain_messages_are_read_as_others_are(messages: list[dict[str, str]], spaced: bool) -> None:
    def found(messages: list[dict[str, str]]) -> list[bytes]:
        body = {"messages": messages}
        return conversation(json.dumps(body, indent=2).encode() if spaced else orjson.dumps(body)).texts()

    texts = found(messages)
    if texts[0][:1] != b"[":  # there are texts
        assert texts == found([{**message, "id": "not plain"} for message in messages])
