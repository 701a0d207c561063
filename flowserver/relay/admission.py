"""Which requests may start: loops are refused here, the rest is sent on its way."""

from __future__ import annotations

import os
import re
from itertools import count

from ..dialects import recognise, recognise_stored
from ..dialects.base import Format
from ..errors import LOOP, RelayError
from ..http.messages import BUDGET, RequestHead, passed_through, request_id
from ..routing.dispatcher import Dispatch, Dispatching
from ..routing.routes import join_target
from .context import Surroundings
from .cors import Cors, is_preflight
from .exchange import Exchange
from .interfaces import DownstreamStream
from .token_count import Account, AccountSettings

_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))
"""Methods that generate nothing, as long as no body goes with them."""


class Admission:
    """Turns request heads into exchanges; one for each worker."""

    __slots__ = ("_around", "_cors", "_numbers", "_prefix", "accounts", "dispatching")

    def __init__(
        self,
        dispatching: Dispatching,
        around: Surroundings,
        accounts: AccountSettings,
        *,
        cors: Cors | None = None,
    ) -> None:
        """`cors` None: pages of other origins are the providers' business."""
        self.accounts = accounts
        """Replaced, as the next, when the configuration is read again; exchanges under way keep theirs."""
        self.dispatching = dispatching
        self._around = around
        self._cors = cors
        self._prefix = os.urandom(8).hex().encode("ascii")
        self._numbers = count(1)

    def open_exchange(self, request: RequestHead, downstream: DownstreamStream) -> Exchange:
        identity = request_id(request) or self._new_identity()
        account = self._open_account(request)
        exchange = Exchange(request, downstream, self._around, identity=identity, account=account)
        if self._cors is not None and is_preflight(request):
            self._answer_preflight(self._cors, exchange)
        elif request.find(b"via") is not None and passed_through(request.headers, self.dispatching.pseudonym):
            exchange.refuse(LOOP)
        else:
            exchange.start(Dispatch(request, identity, self.dispatching, exchange, account=account, upload=downstream))
        return exchange

    def _answer_preflight(self, cors: Cors, exchange: Exchange) -> None:
        """Before anybody asks for a key: preflights have none."""
        answer = cors.preflight(exchange.request)
        if isinstance(answer, RelayError):
            exchange.refuse(answer)
        else:
            exchange.answer(204, answer)

    def _open_account(self, request: RequestHead) -> Account:
        account = Account(self.accounts, self._recognise(request), request)
        if self._cors is not None:
            account.cors = self._cors.fields(request)
        asked = request.find(BUDGET)
        if asked is not None and re.fullmatch(rb"[1-9][0-9]{0,8}", asked):
            account.bound(int(asked))
        return account

    def _recognise(self, request: RequestHead) -> Format | None:
        """The API that is asked to generate something. A path may be a known one only together with the base path of
        the provider that gets it."""
        if request.method in _SAFE and not request.has_body:
            return recognise_stored(request.target.decode("ascii")) if request.method == b"GET" else None
        for base in ("", *self.dispatching.routes.base_paths):
            known = recognise(join_target(base, request.target).decode("ascii"))
            if known is not None:
                return known
        return None

    def _new_identity(self) -> bytes:
        """A request id: unique to the process and to the request. Random bytes for each would cost 17 us."""
        return b"%b%016x" % (self._prefix, next(self._numbers))
