"""Accounts of requests that a provider was asked with, and of answers that begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from flowserver.dialects.estimate import Ratios
from flowserver.relay.account import Account
from flowserver.relay.event_filter import AnyFilter, EventFilter
from flowserver.relay.token_count import TokenCount

from .recording import account, ask, open_answer, read_request, target
from .streams import (
    Stream,
)


def requested(stream: Stream, *, budget: int | None = None, ratios: Ratios | None = None, **settings: Any) -> Account:
    """The account of a request that was sent to a provider with `settings`."""
    made = account(stream.target, ratios=ratios)
    body = orjson.dumps(stream.body)
    read_request(made, body)
    made.bound(budget)
    ask(made, target(**settings), body)
    return made


def opened(stream: Stream, **options: Any) -> tuple[Account, EventFilter]:
    made = requested(stream, **options)
    event_filter = open_answer(made, stream.head)
    assert isinstance(event_filter, EventFilter)
    return made, event_filter


def feed(event_filter: AnyFilter, events: Iterable[bytes]) -> bytes:
    return b"".join([event_filter.feed(event) for event in events])


def count_of(account: Account) -> TokenCount:
    """The count of an answer whose tokens are counted."""
    assert account.count is not None
    return account.count
