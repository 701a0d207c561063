"""Turns request heads into exchanges; refuses loops and answers preflights."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import Final

from ..dialects import recognise, recognise_stored
from ..dialects.base import Format
from ..dialects.realtime import is_realtime
from ..errors import LOOP, TOO_MANY_OF_CLIENT, RelayError
from ..flow.memory_budget import STREAM
from ..http.messages import BUDGET, RequestHead, given_request_id, passed_through
from ..http.websocket import handshake
from ..quota.traffic_class import class_of
from ..relay.account import Account, AccountSettings
from ..relay.context import ExchangeContext
from ..relay.cors import Cors, is_preflight
from ..relay.exchange import Exchange
from ..relay.interfaces import DownstreamStream
from ..relay.request_trace import Tracer
from ..relay.tunnel import Tunnel
from .context import RoutingContext
from .dispatcher import Dispatcher
from .routes import join_target

_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))
"""Methods that generate nothing if sent without a body."""


class Admission:
    """Opens exchanges; one for each worker."""

    __slots__ = ("_cors", "_numbers", "_prefix", "_tracer", "accounts", "context", "routing")

    def __init__(
        self,
        routing: RoutingContext,
        context: ExchangeContext,
        accounts: AccountSettings,
        *,
        cors: Cors | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`cors` None: cross-origin requests are left to the providers. `tracer` None: nothing is traced."""
        self.accounts = accounts
        """Replaced on reload, like `routing`; exchanges under way keep theirs."""
        self.routing = routing
        self.context = context
        """Replaced when the log level changes."""
        self._cors = cors
        self._tracer = tracer
        self._prefix = os.urandom(8).hex().encode("ascii")
        self._numbers = count(1)

    def open_exchange(self, request: RequestHead, downstream: DownstreamStream) -> Exchange:
        request_id = given_request_id(request) or self._new_request_id()
        self.context.memory.spend(STREAM)
        exchange: Exchange
        if request.is_tunnel:
            request = handshake(request, is_read=is_realtime(request.target.decode("ascii")))
            account = self._open_account(request)
            exchange = Tunnel(request, downstream, self.context, request_id=request_id, account=account)
        else:
            account = self._open_account(request)
            exchange = Exchange(request, downstream, self.context, request_id=request_id, account=account)
        asked = class_of(request)
        if downstream.client.is_over_limit:
            exchange.refuse(TOO_MANY_OF_CLIENT)
        elif isinstance(asked, RelayError):
            exchange.refuse(asked)
        elif self._cors is not None and is_preflight(request):
            self._answer_preflight(self._cors, exchange)
        elif request.find(b"via") is not None and passed_through(request.headers, self.routing.pseudonym):
            exchange.refuse(LOOP)
        else:
            account.lower_class(asked)
            exchange.start(
                Dispatcher(request, self.routing, exchange, request_id=request_id, account=account, upload=downstream)
            )
        return exchange

    def _answer_preflight(self, cors: Cors, exchange: Exchange) -> None:
        """Answer before a key is checked: preflights have none."""
        answer = cors.preflight(exchange.request)
        if isinstance(answer, RelayError):
            exchange.refuse(answer)
        else:
            exchange.answer(204, answer)

    def _open_account(self, request: RequestHead) -> Account:
        account = Account(self.accounts, self._recognise(request), request)
        if self._cors is not None:
            account.cors = self._cors.fields(request)
        if self._tracer is not None:
            account.trace = self._tracer.begin(request)
        budget = request.find(BUDGET)
        if budget is not None and re.fullmatch(rb"[1-9][0-9]{0,8}", budget):
            account.bound(int(budget))
        return account

    def _recognise(self, request: RequestHead) -> Format | None:
        """The API of a request that generates something. Some paths are recognised only together with a provider's base
        path."""
        if request.method in _SAFE and not request.has_body:
            return recognise_stored(request.target.decode("ascii")) if request.method == b"GET" else None
        for base in ("", *self.routing.routes.base_paths):
            known = recognise(join_target(base, request.target).decode("ascii"))
            if known is not None:
                return known
        return None

    def _new_request_id(self) -> bytes:
        """A request id, unique across processes and requests. Random bytes for each would cost 17 us."""
        return b"%b%016x" % (self._prefix, next(self._numbers))
