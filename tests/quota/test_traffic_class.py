from __future__ import annotations

import pytest

from flowserver.errors import RelayError
from flowserver.http.messages import RequestHead
from flowserver.quota.traffic_class import BATCH, INTERACTIVE, class_of, lower, parse_class


def _asking(*fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"POST", b"/v1/chat/completions", list(fields))


def test_requests_are_interactive_unless_they_say_otherwise() -> None:
    assert class_of(_asking()) is INTERACTIVE


@pytest.mark.parametrize("value", [b"batch", b" Batch ", b"BATCH"])
def test_a_client_may_ask_for_batch(value: bytes) -> None:
    assert class_of(_asking((b"x-flow-class", value))) is BATCH


@pytest.mark.parametrize("value", [b"", b"urgent", b"\xff", b"batch,interactive"])
def test_another_class_is_an_error_that_names_the_field(value: bytes) -> None:
    error = class_of(_asking((b"x-flow-class", value)))
    assert isinstance(error, RelayError)
    assert (error.status, error.code) == (400, "invalid_class")
    assert "x-flow-class" in error.message
    assert "interactive, batch" in error.message


def test_the_lower_class_wins() -> None:
    assert lower(INTERACTIVE, INTERACTIVE) is INTERACTIVE
    assert lower(INTERACTIVE, BATCH) is lower(BATCH, INTERACTIVE) is lower(BATCH, BATCH) is BATCH


def test_a_word_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="interactive, batch"):
        parse_class("low")
