"""Requests become exchanges with a provider, or are refused."""

from __future__ import annotations

import itertools

from flowserver.dialects.estimate import Ratios
from flowserver.errors import EndReason
from flowserver.http.messages import Headers, RequestHead, find
from flowserver.relay.account import AccountSettings
from flowserver.routing.admission import Admission

from ..support.recording import (
    RecordingConnector,
    RecordingDownstream,
    RecordingObserver,
    exchange_context,
    routing,
    target,
)

NUMBERS = itertools.count()
ACCOUNTS = AccountSettings(Ratios(), max_event=1 << 20, hold=8192)


class Scene:
    def __init__(self, *, api_key: bytes | None = None) -> None:
        self.connector = RecordingConnector()
        self.observer = RecordingObserver()
        provider = target(self.connector, url="https://api.test/v1", api_key=api_key)
        context = routing((provider,), pseudonym=b"flowserver-%d" % next(NUMBERS))
        self.admission = Admission(context, exchange_context(observer=self.observer), ACCOUNTS)

    def ask(self, headers: Headers) -> RecordingDownstream:
        stream = RecordingDownstream()
        self.admission.open_exchange(RequestHead(b"GET", b"/v1/models?x", headers), stream)
        return stream

    def asked(self) -> RequestHead:
        return self.connector.requests[-1]


def test_a_request_is_put_to_the_provider_in_its_own_terms() -> None:
    scene = Scene(api_key=b"key")
    scene.ask([(b"host", b"relay.test"), (b"authorization", b"Bearer mine")])
    assert scene.asked().target == b"/v1/models?x"
    assert find(scene.asked().headers, b"host") == b"api.test"
    assert find(scene.asked().headers, b"authorization") == b"Bearer key"


def test_a_request_id_is_made_where_there_is_no_sane_one() -> None:
    scene = Scene()
    made = set()
    for headers in ([], [(b"x-request-id", b"a b")], []):
        scene.ask(headers)
        request_id = find(scene.asked().headers, b"x-request-id")
        assert request_id is not None
        assert len(request_id) == 32
        made.add(request_id)
    assert len(made) == 3


def test_the_client_s_request_id_is_kept() -> None:
    scene = Scene()
    scene.ask([(b"x-request-id", b"mine-1")])
    assert find(scene.asked().headers, b"x-request-id") == b"mine-1"


def test_a_request_that_comes_back_to_the_same_relay_is_refused() -> None:
    scene = Scene()
    scene.ask([])
    via = find(scene.asked().headers, b"via")
    assert via is not None
    stream = scene.ask([(b"via", via + b", 1.1 another")])
    assert stream.log[0] == "head 508"
    assert len(scene.connector.streams) == 1
    assert stream.events is not None
    stream.events.on_downstream_finished()
    assert scene.observer.ends == [EndReason.REFUSED]


def test_one_relay_behind_another_is_no_loop() -> None:
    first, second = Scene(), Scene()
    first.ask([])
    second.ask(first.asked().headers)
    assert len(second.connector.streams) == 1
