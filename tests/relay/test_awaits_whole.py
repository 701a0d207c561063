"""Which answers are known to be no streams before they come."""

from __future__ import annotations

import orjson
import pytest

from ..support.recording import account, read_request
from ..support.streams import STREAMS, Stream
from ..support.wholes import WHOLES, Whole


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.target)
def test_no_stream_is_taken_for_a_whole_answer(stream: Stream) -> None:
    made = account(stream.target)
    assert not made.awaits_whole
    assert read_request(made, orjson.dumps(stream.body)) is None
    assert not made.awaits_whole


@pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.target)
def test_a_request_that_asks_for_no_stream_awaits_a_whole_answer(whole: Whole) -> None:
    made = account(whole.target)
    read_request(made, orjson.dumps(whole.body))
    assert made.awaits_whole


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/other", b'{"model": "m"}'),
        ("/v1/chat/completions", b""),
        ("/v1/chat/completions", b"nonsense"),
        ("/v1/chat/completions", b"[]"),
    ],
)
def test_where_nothing_is_known_the_answer_may_be_a_stream(target: str, body: bytes) -> None:
    made = account(target)
    read_request(made, body)
    assert not made.awaits_whole


@pytest.mark.parametrize(("stream", "whole"), [(b"true", False), (b"false", True), (b"null", True)])
def test_what_is_asked_decides(stream: bytes, *, whole: bool) -> None:
    made = account("/v1/chat/completions")
    read_request(made, b'{"model": "m", "messages": [], "stream": %b}' % stream)
    assert made.awaits_whole is whole
