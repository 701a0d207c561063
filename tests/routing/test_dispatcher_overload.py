"""When the gate for overload is asked, and that whoever it refuses costs nothing more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowserver.errors import RelayError
from flowserver.flow.loop_delay import LoopDelay
from flowserver.flow.memory_budget import UNLIMITED
from flowserver.http.messages import RequestHead
from flowserver.quota.identify import QuotaContext
from flowserver.quota.tenants import Tenant, Tenants
from flowserver.quota.traffic_class import BATCH, INTERACTIVE, TrafficClass
from flowserver.relay.account import Account
from flowserver.routing.dispatcher import Dispatcher
from flowserver.routing.overload import FULL, NO_BATCH, OverloadGate
from flowserver.routing.routes import Route, RouteTable

from ..support.clock import FakeClock
from ..support.later import Later
from ..support.quota import KEY, FakeLimiter, tenant
from ..support.recording import account
from .scene import Events, Scene


class Gate:
    """A scene whose gate refuses by its memory."""

    def __init__(self, level: int, *, route: TrafficClass = INTERACTIVE) -> None:
        self.scene = Scene()
        self.limiter = FakeLimiter()
        loop_delay = LoopDelay(FakeClock(), Later(), lambda seconds, call: None)
        self.gate = OverloadGate(
            None, loop_delay, lambda: 0.0, UNLIMITED, random=lambda: 0.0, changed=lambda change: None
        )
        self.gate.memory_level = level
        routes = RouteTable([Route("*", (), ((self.scene.hosts["a"],),), traffic_class=route)])
        self.context = replace(self.scene.context, routes=routes, overload=self.gate)

    def ask(
        self, *, asked: TrafficClass = INTERACTIVE, whose: Tenant | None = None, request: RequestHead | None = None
    ) -> Events:
        request = request or RequestHead(
            b"POST",
            b"/v1/chat/completions",
            [(b"host", b"relay"), (b"authorization", b"Bearer " + KEY)],
            has_body=True,
        )
        return self.send(request, account(request=request, quota=self._quota(whose)), asked)

    def send(self, request: RequestHead, account: Account, asked: TrafficClass) -> Events:
        account.lower_class(asked)
        events = Events()
        events.dispatcher = dispatcher = Dispatcher(
            request, self.context, events, request_id=b"id-1", account=account, upload=events.upload
        )
        dispatcher.start()
        if request.has_body:
            dispatcher.send_data(b'{"model":"m","messages":[]}')
        dispatcher.send_end()
        return events

    def _quota(self, whose: Tenant | None) -> QuotaContext | None:
        return None if whose is None else QuotaContext(Tenants([whose]), self.limiter, lambda: 1.0)


def _codes(events: Events) -> list[str]:
    return [error.code for error in events.errors]


def test_while_there_is_room_all_are_asked_for() -> None:
    scene = Gate(1)
    assert _codes(scene.ask(asked=BATCH)) == _codes(scene.ask()) == []
    assert scene.scene.asked("a") == 2


@pytest.mark.parametrize("whose", [None, tenant()], ids=["no tenants", "a tenant"])
def test_batch_is_refused_and_no_provider_asked(whose: Tenant | None) -> None:
    scene = Gate(NO_BATCH)
    events = scene.ask(asked=BATCH, whose=whose)
    assert _codes(events) == ["overloaded"]
    assert events.upload.held == 0
    assert scene.scene.asked("a") == 0
    assert scene.limiter.log == []
    assert _codes(scene.ask(whose=whose)) == []


def test_a_tenant_of_class_batch_is_refused_whatever_its_client_asks_for() -> None:
    assert _codes(Gate(NO_BATCH).ask(whose=tenant(traffic_class=BATCH))) == ["overloaded"]


def test_so_is_a_request_whose_route_is_of_class_batch() -> None:
    scene = Gate(NO_BATCH, route=BATCH)
    assert _codes(scene.ask()) == ["overloaded"]
    assert scene.gate.refused[BATCH, "memory"] == 1


def test_on_such_a_route_a_request_counts_once() -> None:
    scene = Gate(NO_BATCH, route=BATCH)
    scene.ask(asked=BATCH)
    assert sum(scene.gate.refused.values()) == 1


def test_who_may_not_use_the_relay_hears_that_first() -> None:
    assert _codes(Gate(FULL).ask(whose=tenant(key=b"another"))) == ["invalid_api_key"]


def test_without_room_all_are_refused_but_preflights() -> None:
    scene = Gate(FULL)
    assert _codes(scene.ask()) == ["overloaded"]
    fields = [(b"origin", b"https://app.test"), (b"access-control-request-method", b"POST")]
    assert _codes(scene.ask(request=RequestHead(b"OPTIONS", b"/v1/chat/completions", fields))) == []


def test_a_refusal_says_when_to_come_back() -> None:
    [error] = Gate(FULL).ask().errors
    assert isinstance(error, RelayError)
    assert (error.status, error.retry_after) == (503, 1)
