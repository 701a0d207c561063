"""What an operator can do to a process that serves clients, at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ENDED_BY_OPERATOR
from ..relay.exchange import Exchange
from ..routing.upstream_host import UpstreamHost
from ..telemetry.control_pages import END, IN, LOG_LEVEL, OUT
from ..telemetry.log import Log
from ..telemetry.metrics import Metrics


class Operations:
    """Carries out the commands of `control_pages`. `out`: the providers that are taken out, by their names."""

    __slots__ = ("_hosts", "_log", "_metrics", "_on_log_level", "out")

    def __init__(
        self, metrics: Metrics, log: Log, on_log_level: Callable[[str], None], out: frozenset[str] = frozenset()
    ) -> None:
        """`on_log_level` is called with a new level, after the log has it."""
        self._metrics = metrics
        self._log = log
        self._on_log_level = on_log_level
        self._hosts: Sequence[UpstreamHost] = ()
        self.out = out

    @property
    def upstreams(self) -> list[str]:
        """The names of all providers."""
        return [host.name for host in self._hosts]

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return len(self._metrics.open)

    def follow(self, hosts: Sequence[UpstreamHost]) -> None:
        """Use these providers from now on. A provider that is out stays out, if it still exists."""
        self._hosts = hosts
        self.out &= {host.name for host in hosts}
        for host in hosts:
            host.is_out = host.name in self.out

    def execute(self, command: Sequence[str]) -> int:
        """Carry out a command. Returns the number of streams that were ended."""
        verb, argument = command
        if verb == END:
            return self._end(argument)
        if verb == LOG_LEVEL:
            self._log.level = argument
            self._on_log_level(argument)
        elif verb in (OUT, IN):
            self._move(argument, is_out=verb == OUT)
        return 0

    def _end(self, request_id: str) -> int:
        """End all streams with this id: clients may choose ids, and may use one twice."""
        wanted = request_id.encode()
        exchanges = [each for each in self._metrics.open if isinstance(each, Exchange)]
        found = [exchange for exchange in exchanges if exchange.request_id == wanted]
        for exchange in found:
            if exchange.error is None:
                exchange.on_downstream_failed(ENDED_BY_OPERATOR)
            else:  # it has failed already, and its client does not read the error
                exchange.cut(ENDED_BY_OPERATOR)
        return len(found)

    def _move(self, name: str, *, is_out: bool) -> None:
        self.out = self.out | {name} if is_out else self.out - {name}
        for host in self._hosts:
            if host.name == name and host.is_out is not is_out:
                host.is_out = is_out
                if is_out:
                    host.places.send_waiting_away()
