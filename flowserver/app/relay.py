"""The composition root: builds a relay from its configuration, and shuts it down without breaking streams."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config.addresses import Address
from ..config.differences import differences
from ..config.effective import effective
from ..config.environment import read_again
from ..config.errors import ConfigError
from ..config.file import load_topology
from ..config.settings import Config
from ..config.sweep import sweep_interval
from ..config.topology import Topology
from ..dialects.estimate import Ratios
from ..downstream.clients_by_address import ClientsByAddress
from ..downstream.context import ListenerContext, OpenConnections
from ..downstream.listener import Listener
from ..downstream.listening import address_of
from ..flow.loop_delay import LoopDelay
from ..flow.memory_budget import UNBOUNDED, UNLIMITED, Level
from ..flow.turns import READING, STARTING, Turns
from ..net.hangup import EpollHangups
from ..relay.account import AccountSettings
from ..relay.context import Abandoned, ExchangeContext
from ..relay.cors import Cors
from ..relay.interfaces import OpenExchange
from ..relay.provider import Deadlines
from ..relay.uploads import Uploads
from ..routing.admission import Admission
from ..routing.context import RetryPolicy, RoutingContext
from ..routing.first_token import FirstTokenContext
from ..routing.overload import OverloadGate, OverloadSettings
from ..stores.shared_state import SharedState
from ..telemetry.admin import Admin
from ..telemetry.admin_access import AdminAccess
from ..telemetry.admin_hosts import NO_BROWSER, AdminHosts
from ..telemetry.control_pages import ControlPages
from ..telemetry.live_objects import common
from ..telemetry.live_report import LiveReport
from ..telemetry.live_tenants import TenantFigures
from ..telemetry.log import Log
from ..telemetry.metrics import Metrics
from ..telemetry.quotas import QuotaFigures
from ..telemetry.reload_figures import ReloadFigures
from ..telemetry.slices import Slices
from ..telemetry.sources import OwnPages
from ..upstream.resolver import Resolver
from ..workers.load import WorkerLoad
from .breaker_watch import BreakerWatch
from .clients import connection_settings, tls_context, watermarks
from .limit_log import LimitLog
from .listening import ListeningSockets
from .memory import Holders, MemoryWatch, share_of
from .operations import Operations
from .own_control import OwnControl
from .provider_watch import ProviderWatch
from .providers import FlowLimits, Providers, build
from .reload_result import ReloadResult
from .sweeper import Sweeper
from .tenancy import Tenancy, check_tenants, price_table
from .tracing import Tracing


@dataclass(frozen=True, slots=True)
class WorkerPart:
    """What a relay gets from its parent if it is one of several workers."""

    topology: Topology
    """As read by the parent."""
    load: WorkerLoad
    """Where it publishes its load, and sees that of the others."""
    shared: SharedState
    """Limits, and the state of providers. The relay does not close it."""
    memory: int = UNBOUNDED
    """Bytes of memory that it may use."""
    out: frozenset[str] = frozenset()
    """The providers that the operator has taken out."""


class Relay:
    """A relay. Call `start`, then `drain` or `close`."""

    def __init__(
        self,
        config: Config,
        log: Log,
        environ: Mapping[str, str] = os.environ,
        part: WorkerPart | None = None,
    ) -> None:
        """`environ`: the variables that the file of FLOW_CONFIG refers to. `part`: None if it is not a worker. Raises
        ConfigError if the configuration names no provider, or a file that can't be used."""
        self._config = config
        self._environ = environ
        self._shared = shared = None if part is None else part.shared
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._is_leaving = False
        """Whether /readyz reports that it is not ready any more."""
        self._draining = False
        self._sockets: ListeningSockets | None = None
        self.is_handed_over = False
        """Whether another process accepts from the same sockets."""
        self._empty: asyncio.Future[None] | None = None
        self._limit_log = LimitLog(log)
        reloads = ReloadFigures(time.time()) if part is None else None
        self.metrics = Metrics(log, genai=config.metrics_genai, reloads=reloads)
        memory = share_of(config, 1, self._warn_of_memory) if part is None else part.memory
        self._memory_watch = self._watch_of(memory, part)
        self._memory = UNLIMITED if self._memory_watch is None else self._memory_watch.budget
        self._watermarks = watermarks(config)
        self._hangups = EpollHangups(self._loop)
        self._uploads = Uploads(
            config.max_uploads,
            clock=time.monotonic,
            later=self._loop.call_soon,
            busy_timeout=config.body_timeout,
            memory=self._memory,
        )
        self.turns = Turns(READING, time.monotonic, self._loop.call_soon)
        """Of clients: /healthz does not wait behind them."""
        self._starts = Turns(STARTING, time.monotonic, self._loop.call_soon, within=self.turns)
        self.metrics.uploads = self._uploads
        topology = self._topology = load_topology(config, environ) if part is None else part.topology
        self._breakers = BreakerWatch(log)
        self._resolver = Resolver(log)
        self._limits = FlowLimits(self._watermarks, self._memory)
        self._providers = build(config, topology, self._limits, self._resolver, shared=shared)
        self._tenancy = Tenancy(config, topology, shared)
        self.metrics.quotas = self._quotas = QuotaFigures(self._tenancy, time.monotonic, time.time)
        interval = sweep_interval(config, *topology.swept_times)
        self._sweeper = Sweeper(self._loop, self._sweep, self.metrics.observe_lag, interval, time.monotonic)
        self._retired: list[Providers] = []
        """Providers of earlier configurations that still have requests under way."""
        operations = Operations(self.metrics, log, self._on_log_level, frozenset() if part is None else part.out)
        self.control = OwnControl(operations, log, configuration=self._configuration, on_reload=self.reload)
        self._show(topology)
        self.metrics.overload = self.overload = self._build_overload()
        """Kept through reloads; None: neither FLOW_OVERLOAD_TARGET nor FLOW_MEMORY is on."""
        self._tracing = Tracing.of(config, log)
        self._admission = self._build_admission()
        self._watch = ProviderWatch(log, pseudonym=self._pseudonym, random=random.random)
        self._clients = self._build_clients(part)
        self._admin, self._control = self._build_admin()
        self.addresses: list[Address] = []
        """Where clients connect, with the actual ports."""
        self.admin_address: Address | None = None

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return self._clients.connections

    @property
    def replaced_configurations(self) -> int:
        """Earlier configurations whose providers still have requests under way."""
        return len(self._retired)

    @property
    def is_idle(self) -> bool:
        """Whether no client is connected and no provider has a request of this relay."""
        holds = self.connections or self.metrics.open or self._hangups.watched
        return not holds and all(providers.is_unused for providers in (*self._retired, self._providers))

    async def start(self, sockets: ListeningSockets, source: str = "") -> None:
        """Start accepting on `sockets`, which the relay owns from then on, and sweeping. `source`: who passed them, for
        the log; empty: they were bound here."""
        self._sockets = sockets
        if sockets.admin is not None:
            await self._admin.start([sockets.admin])
            self.admin_address = address_of(sockets.admin)
        if sockets.control is not None:
            await self._control.start([sockets.control])
        await self._clients.start(sockets.clients)
        self.addresses = [address_of(listening) for listening in sockets.clients]
        self.begin()
        listening = [str(address) for address in self.addresses]
        admin = str(self.admin_address or "off")
        passed = {"passed_by": source} if source else {}
        self._log.write("info", "listening", listen=listening, admin=admin, **passed)

    def hand_over(self) -> None:
        """Stop accepting, because another process accepts from the same sockets. That process serves the admin pages
        too: this relay's would say that it is not ready."""
        self.is_handed_over = True
        self._clients.stop_accepting()
        for pages, listener in ((self._admin_pages, self._admin), (self._control_pages, self._control)):
            pages.drain()
            listener.drain()

    def leave(self) -> None:
        """Report that it is not ready any more, but go on serving."""
        self._is_leaving = True

    def begin(self) -> None:
        """Start sweeping and checking, without listening: for a worker, which gets its connections by `adopt`."""
        if self._tracing is not None:
            self._tracing.start()
        self._watch.follow(self._providers)
        self._sweeper.start()
        self._watch_memory()

    def adopt(self, connection: socket.socket, arrived: Callable[[], object]) -> None:
        """Take a client's connection that another process has accepted; see `Listener.adopt`."""
        self._clients.adopt(connection, arrived)

    async def drain(self) -> None:
        """Accept no new connections, let streams finish within the drain time, then break off the rest."""
        if not self._draining:
            self._is_leaving = self._draining = True
            self._log.write("info", "draining", streams=len(self.metrics.open))
            if self._config.reuse_port and not self.is_handed_over:
                await asyncio.gather(self._clients.leave_group(), self._admin.leave_group())
            self._leave_name()
            self._clients.drain()
            await self._clients.settle()
        self._empty = self._loop.create_future()
        if self._clients.connections:
            try:
                await asyncio.wait_for(asyncio.shield(self._empty), self._config.drain_timeout)
            except TimeoutError:
                self._log.write("warning", "drain_timeout", streams=len(self.metrics.open))
                self._clients.end_drain()
                await asyncio.sleep(0.1)  # so that broken ends and error answers are sent

    def _leave_name(self) -> None:
        """Remove the names of Unix sockets, unless another process accepts there."""
        if self._sockets is not None and not self.is_handed_over:
            self._sockets.remove_files()

    def reload(self) -> bool:
        """`read_again`, and log the result. False: it failed, and nothing has changed."""
        before = self._topology
        try:
            self.read_again()
        except ConfigError as error:
            self._log.write("error", "reload_failed", problems=error.problems)
            self._note_reload(is_good=False)
            self.control.last = ReloadResult(time.time(), problems=error.problems)
            return False
        names = [host.name for host in self._providers.hosts]
        changes = differences(before, self._topology)
        self._log.write("info", "reloaded", upstreams=names, changes=changes)
        self.control.last = ReloadResult(time.time(), changes=changes)
        self._note_reload(is_good=True)
        return True

    def _note_reload(self, *, is_good: bool) -> None:
        if self.metrics.reloads is not None:
            self.metrics.reloads.ended(time.time(), is_good=is_good)

    def read_again(self) -> None:
        """Read providers, routes, tenants and certificates again, for new requests and connections; those under way are
        not affected. Raises ConfigError if the configuration is invalid, or has lost its tenants; nothing has changed
        then."""
        config = read_again(self._config, self._environ)
        topology = load_topology(config, self._environ)
        check_tenants(config, self._topology, topology)
        tls = tls_context(config)
        providers = build(config, topology, self._limits, self._resolver, self._providers, self._shared)
        if config.redis_url != self._config.redis_url:
            self._log.write("warning", "restart_needed", reason="the value that FLOW_REDIS_URL refers to has changed")
        self._topology = topology
        self._retired.append(self._providers.without(providers))
        self._providers = providers
        self._sweeper.interval = sweep_interval(self._config, *topology.swept_times)
        self._clients.tls = tls
        self._access.token = config.admin_token
        if self._tracing is not None:
            self._tracing.reconfigure(config)
        self._tenancy.reload(topology)
        self._admission.routing = self._routing()
        self._admission.accounts = replace(
            self._admission.accounts, quota=self._tenancy.quota, prices=price_table(topology)
        )
        self._show(topology)
        self._watch.follow(providers)

    async def close(self) -> None:
        """Close everything at once."""
        self._sweeper.stop()
        self._watch.close()
        if self._memory_watch is not None:
            self._memory_watch.close()
        self._leave_name()
        if self._sockets is not None and not self.is_handed_over:
            self._sockets.remove_control_file()
        await self._clients.close()
        self._abandoned.close()
        self._quotas.close()
        await self._tenancy.close()
        await self._admin.close()
        await self._control.close()
        for providers in (*self._retired, self._providers):
            for pool in providers.pools:
                pool.close()
        self._resolver.close()
        self._hangups.close()
        if self._tracing is not None:
            await self._tracing.close()

    # --- building --------------------------------------------------------------------------------------------------

    def _build_admission(self) -> Admission:
        config = self._config
        deadlines = Deadlines(
            first_byte=config.first_byte_timeout,
            idle=config.idle_timeout,
            body=config.body_timeout,
            total=config.total_timeout,
        )
        self._abandoned = Abandoned(config.disconnect_time, config.disconnect_bytes)
        context = ExchangeContext(
            clock=time.monotonic,
            observer=self.metrics,
            deadlines=deadlines,
            pauses=self.metrics.pauses,
            max_body=config.max_body,
            drain_target=config.drain_target,
            memory=self._memory,
            heartbeat=config.heartbeat,
            abandoned=self._abandoned,
            fast_path=config.fast_path,
            trace=self._log.state_changed if self._log.writes("debug") else None,
        )
        accounts = AccountSettings(
            Ratios(),
            max_event=config.max_event,
            hold=self._watermarks.high,
            quota=self._tenancy.quota,
            prices=price_table(self._topology),
        )
        self.metrics.store = self._tenancy
        # Unique to this process, so that one relay behind another is not mistaken for a loop.
        self._pseudonym = b"flowserver-" + os.urandom(6).hex().encode()
        cors = None if config.cors_origins is None else Cors(config.cors_origins)
        self.metrics.tracer = tracer = None if self._tracing is None else self._tracing.tracer
        return Admission(self._routing(), context, accounts, cors=cors, tracer=tracer)

    def _routing(self) -> RoutingContext:
        config = self._config
        policy = RetryPolicy(
            attempts=config.retry_attempts,
            time=config.retry_time,
            replay=config.replay_body,
            unanswered=config.retry_unanswered,
        )
        return RoutingContext(
            routes=self._providers.routes,
            policy=policy,
            clock=time.monotonic,
            random=random.random,
            pseudonym=self._pseudonym,
            first_token=FirstTokenContext(time.monotonic, self._loop.call_later, self.metrics.withheld),
            wall_clock=time.time,
            memory=self._memory,
            overload=self.overload,
            turns=self._starts,
        )

    def _build_overload(self) -> OverloadGate | None:
        """None: requests are refused neither for lack of time nor of memory."""
        target, interval = self._config.overload_target, self._config.overload_interval
        if target is None and self._memory_watch is None:
            return None
        return OverloadGate(
            OverloadSettings(target, interval) if target is not None else None,
            LoopDelay(time.monotonic, self._loop.call_soon, self._loop.call_later),
            lambda: max(self.turns.take_longest_wait(), self._starts.take_longest_wait()),
            self._memory,
            random=random.random,
            changed=self._log.overload_changed,
        )

    def _show(self, topology: Topology) -> None:
        self.metrics.name_models(topology.models)
        self.metrics.know_profiles({host.name: host.settings.quirks.name for host in self._providers.hosts})
        self.metrics.upstreams = self._providers.hosts
        self.control.operations.follow(self._providers.hosts)
        self.metrics.pools = self._providers.pools
        self.metrics.names = self._providers.names

    def _build_clients(self, part: WorkerPart | None) -> Listener:
        config = self._config
        most = config.max_connections_per_client
        elsewhere = None if self._shared is None or most is None else self._shared.clients(most)
        clients = ClientsByAddress(most, config.trusted_proxies, elsewhere)
        self.metrics.clients_refused = clients.refused
        self._open_connections = connections = OpenConnections(clients, None if part is None else part.load)
        if part is not None:
            self.metrics.streams_changed = part.load.streams_changed
        return self._listener(self._admission.open_exchange, config.max_connections, tls_context(config), connections)

    def _build_admin(self) -> tuple[Listener, Listener]:
        """The listeners of the admin pages and of the control socket."""
        slices = Slices(self._loop.call_soon, time.monotonic)
        tenants = TenantFigures(self._tenancy, time.monotonic, time.time)
        self.live_report = LiveReport(self.metrics, tenants, clock=time.monotonic, wall=time.time)
        """This process's part of the live feed."""
        pages = OwnPages(
            self.metrics,
            slices,
            self.live_report,
            clock=time.monotonic,
            unready=self._unready,
            common=lambda: common(self.metrics.process, is_draining=self._is_leaving),
        )
        hosts = AdminHosts(self._config.admin_hosts, self._config.admin_listen)
        self._access = AdminAccess(self._config.admin_token)
        later = self._loop.call_later
        self._admin_pages = Admin(pages, hosts, later, ControlPages(self.control, self._access))
        self._control_pages = Admin(pages, NO_BROWSER, later, ControlPages(self.control, None))
        return (
            self._listener(self._admin_pages.open_exchange, max_connections=256),
            self._listener(self._control_pages.open_exchange, max_connections=16),
        )

    def _configuration(self) -> dict[str, Any]:
        changed = ("log_level",) if self._log.level != self._config.log_level else ()
        told = effective(replace(self._config, log_level=self._log.level), self._topology, self._environ, changed)
        return {**told, "out": sorted(self.control.operations.out)}

    def _on_log_level(self, level: str) -> None:
        trace = self._log.state_changed if self._log.writes("debug") else None
        self._admission.context = replace(self._admission.context, trace=trace)

    def _unready(self) -> str | None:
        if self._is_leaving:
            return "draining"
        return self._short_of_memory() or self._watch.unready(self._config.ready)

    def _listener(
        self,
        open_exchange: OpenExchange,
        max_connections: int,
        tls: ssl.SSLContext | None = None,
        connections: OpenConnections | None = None,
    ) -> Listener:
        """`connections`: those of clients; None: the listener is for the admin pages."""
        context = ListenerContext(
            settings=connection_settings(
                self._config, self._watermarks, max_connections, is_public=connections is not None
            ),
            open_exchange=open_exchange,
            observer=self.metrics,
            clock=time.monotonic,
            hangups=self._hangups,
            uploads=self._uploads,
            turns=self.turns if connections is not None else Turns(READING, time.monotonic, self._loop.call_soon),
            h2_totals=self.metrics.h2,
            connections=OpenConnections() if connections is None else connections,
            memory=UNLIMITED if connections is None else self._memory,
        )
        return Listener(context, tls=tls)

    # --- memory ----------------------------------------------------------------------------------------------------

    def _warn_of_memory(self, problem: str) -> None:
        self._log.write("warning", "memory_is_little", problem=problem)

    def _watch_of(self, memory: int, part: WorkerPart | None) -> MemoryWatch | None:
        if memory >= UNBOUNDED:
            return None
        return MemoryWatch(memory, self._log, None if part is None else part.load.pressed)

    def _watch_memory(self) -> None:
        if self._memory_watch is not None:
            self.metrics.memory = self._memory_watch.figures
            self._memory_watch.begin(
                Holders(
                    exchanges=self.metrics.open,
                    connections=self._open_connections,
                    pools=lambda: self._providers.pools,
                    uploads=self._uploads,
                    gate=self.overload,
                    h2=self.metrics.h2,
                    is_tls=self._clients.tls is not None,
                    relieve=self._sweeper.hurry,
                )
            )

    def _short_of_memory(self) -> str | None:
        level = self._config.ready_memory
        is_short = level is not None and self._memory.level >= Level[level.upper()]
        return "short of memory" if is_short else None

    # --- time ------------------------------------------------------------------------------------------------------

    def _sweep(self) -> Iterator[None]:
        """Check all deadlines of the process, in steps."""
        yield from self._clients.sweep()
        yield from self._admin.sweep()
        yield from self._control.sweep()
        yield from self._abandoned.sweep(time.monotonic)
        now = time.monotonic()
        self._sweep_providers(now)
        self._uploads.pass_turn(now)
        self._watch_breakers(now)
        self.metrics.connections = self._clients.connections
        if self._empty is not None and not self._empty.done() and not self._clients.connections:
            self._empty.set_result(None)

    def _watch_breakers(self, now: float) -> None:
        breakers = [(host.name, host.health) for host in self._providers.hosts]
        if self._tenancy.breaker is not None:
            breakers.append(("", self._tenancy.breaker))
        self._breakers.look(breakers, now)

    def _sweep_providers(self, now: float) -> None:
        self._watch.sweep(now)
        for providers in (*self._retired, self._providers):
            for pool in providers.pools:
                pool.sweep(now)
            for host in providers.hosts:
                if host.adaptive is not None:
                    host.adaptive.sweep(now)
        self._limit_log.look(self._providers.hosts, now)
        for providers in list(self._retired):
            if providers.is_unused:
                self._retired.remove(providers)
                for pool in providers.pools:
                    pool.close()
