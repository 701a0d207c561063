"""Which requests may start: loops are refused here, the rest is routed."""

from __future__ import annotations

import os

from ..errors import LOOP
from ..messages import RequestHead, passed_through, request_for_upstream, request_id
from .exchange import Exchange, Surroundings
from .ports import DownstreamStream
from .routes import Route, join_target


class Admission:
    """Turns request heads into exchanges; one for each worker."""

    __slots__ = ("_around", "_pseudonym", "_route")

    def __init__(self, route: Route, around: Surroundings) -> None:
        self._route = route
        self._around = around
        # Unique to this process, so that one relay behind another is no loop.
        self._pseudonym = b"flowserver-" + os.urandom(6).hex().encode()

    def open_exchange(self, request: RequestHead, downstream: DownstreamStream) -> Exchange:
        identity = request_id(request.headers) or os.urandom(16).hex().encode()
        exchange = Exchange(request, downstream, self._around, identity=identity)
        if passed_through(request.headers, self._pseudonym):
            exchange.refuse(LOOP)
        else:
            route = self._route
            exchange.start(
                route.connector,
                request_for_upstream(
                    request,
                    authority=route.url.authority.encode("ascii"),
                    target=join_target(route.url.path, request.target),
                    pseudonym=self._pseudonym,
                    identity=identity,
                    api_key=route.api_key,
                ),
            )
        return exchange
