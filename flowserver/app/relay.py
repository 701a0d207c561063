"""The composition root: builds a relay from its configuration, and shuts it down without breaking streams."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace

from ..config.addresses import Address
from ..config.file import Topology, load_topology
from ..config.parsers import Auto, pinned
from ..config.settings import Config, ConfigError, read_again
from ..dialects.estimate import Ratios
from ..downstream.context import (
    H2_CONNECTION_WINDOW,
    H2_STREAM_WINDOW,
    ConnectionSettings,
    H2Settings,
    ListenerContext,
)
from ..downstream.listener import Listener
from ..downstream.listening import address_of
from ..downstream.tls import TlsFiles, server_context
from ..flow.bounded_buffer import Watermarks
from ..http.h2_flood_guard import H2Limits
from ..net.hangup import EpollHangups
from ..relay.account import AccountSettings
from ..relay.context import Abandoned, ExchangeContext
from ..relay.cors import Cors
from ..relay.interfaces import OpenExchange
from ..relay.provider import Deadlines
from ..relay.uploads import Uploads
from ..routing.admission import Admission
from ..routing.dispatcher import RetryPolicy, RoutingContext
from ..telemetry.admin import Admin
from ..telemetry.admin_hosts import AdminHosts
from ..telemetry.log import Log
from ..telemetry.metrics import Metrics
from ..upstream.resolver import Resolver
from .listening import ListeningSockets
from .providers import Providers, build
from .tenancy import Tenancy


class Relay:
    """A running relay. `start`, then `drain` or `close`."""

    def __init__(self, config: Config, log: Log, environ: Mapping[str, str] = os.environ) -> None:
        """`environ` has the variables that the file of FLOW_CONFIG names. Raises ConfigError if the configuration names
        no provider, or a file that can't be used."""
        self._config = config
        self._environ = environ
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._is_leaving = False
        """Whether /readyz says that it is not ready any more."""
        self._draining = False
        self.is_handed_over = False
        """Whether another process accepts from the same sockets."""
        self._empty: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.metrics = Metrics(log)
        self._watermarks = Watermarks(
            pinned(config.high_water), pinned(config.low_water), pinned(config.prefetch_chunks)
        )
        self._hangups = EpollHangups(self._loop)
        self._uploads = Uploads(
            config.max_uploads, clock=time.monotonic, later=self._loop.call_soon, busy_timeout=config.body_timeout
        )
        self.metrics.uploads = self._uploads
        topology = self._topology = load_topology(config, environ)
        self._resolver = Resolver(log)
        self._providers = build(config, topology, self._watermarks, self._resolver)
        self._tenancy = Tenancy(config, topology)
        self._sweep_interval = config.sweep_interval(*topology.swept_times)
        self._retired: list[Providers] = []
        """Providers of earlier configurations, while they have requests under way."""
        self._show(topology)
        self._admission = self._build_admission()
        self._tls_files = _tls_files(config)
        self._clients = self._listener(self._admission.open_exchange, config.max_connections, self._build_tls())
        self._admin = self._build_admin()
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
        """Whether it holds nothing for any client and no provider works for it."""
        holds = self.connections or self.metrics.open or self._hangups.watched
        return not holds and all(providers.is_unused for providers in (*self._retired, self._providers))

    async def start(self, sockets: ListeningSockets, source: str = "") -> None:
        """Start accepting at `sockets`, which are the relay's from then on, and sweeping. `source` tells where they
        come from, for the log; empty: they were bound here."""
        if sockets.admin is not None:
            await self._admin.start([sockets.admin])
            self.admin_address = address_of(sockets.admin)
        await self._clients.start(sockets.clients)
        self.addresses = [address_of(listening) for listening in sockets.clients]
        self._schedule_sweep()
        listening = [str(address) for address in self.addresses]
        admin = str(self.admin_address or "off")
        passed = {"passed_by": source} if source else {}
        self._log.write("info", "listening", listen=listening, admin=admin, **passed)

    def hand_over(self) -> None:
        """Stop accepting, as another process accepts from the same sockets. It answers for the admin pages too: this
        relay's would say that it is not ready."""
        self.is_handed_over = True
        self._clients.stop_accepting()
        self._admin.drain()

    def leave(self) -> None:
        """Be no longer ready, for those who ask, and serve all the same."""
        self._is_leaving = True

    async def drain(self) -> None:
        """Accept no new connections, let streams finish within the drain time, then break off the rest."""
        if not self._draining:
            self._is_leaving = self._draining = True
            self._log.write("info", "draining", streams=len(self.metrics.open))
            if self._config.reuse_port and not self.is_handed_over:
                await asyncio.gather(self._clients.leave_group(), self._admin.leave_group())
            self._clients.drain()
            await self._clients.settle()
        self._empty = self._loop.create_future()
        if self._clients.connections:
            try:
                await asyncio.wait_for(asyncio.shield(self._empty), self._config.drain_timeout)
            except TimeoutError:
                self._log.write("warning", "drain_timeout", streams=len(self.metrics.open))
                self._clients.end_drain()
                await asyncio.sleep(0.1)  # so that broken ends and error answers leave

    def reload(self) -> bool:
        """Read providers, routes, tenants and certificates again, for new requests and connections; those under way
        are not affected. A configuration that is invalid, or has lost its tenants, changes nothing: False."""
        try:
            config = read_again(self._config, self._environ)
            topology = load_topology(config, self._environ)
            self._check_tenants(topology)
            tls = self._build_tls()
            providers = build(config, topology, self._watermarks, self._resolver, self._providers)
        except ConfigError as error:
            self._log.write("error", "reload_failed", problems=error.problems)
            return False
        if config.redis_url != self._config.redis_url:
            self._log.write("warning", "restart_needed", reason="FLOW_REDIS_URL refers to another value now")
        self._topology = topology
        self._retired.append(self._providers.without(providers))
        self._providers = providers
        self._sweep_interval = self._config.sweep_interval(*topology.swept_times)
        self._clients.tls = tls
        self._tenancy.reload(topology)
        self._admission.routing = self._routing()
        self._admission.accounts = replace(self._admission.accounts, quota=self._tenancy.quota)
        self._show(topology)
        self._log.write("info", "reloaded", upstreams=[host.name for host in providers.hosts])
        return True

    def _check_tenants(self, topology: Topology) -> None:
        """Raises ConfigError if the file has lost its tenants, for example because it was truncated: without tenants
        the relay, with the providers' keys, is open to everybody who reaches it."""
        if self._topology.tenants and not topology.tenants and not topology.open:
            text = "its [[tenants]] are gone; if that is intended, set `open = true` above the first table"
            raise ConfigError([f"{self._config.config}: {text}"])

    async def close(self) -> None:
        """Close everything at once."""
        if self._timer is not None:
            self._timer.cancel()
        await self._clients.close()
        self._abandoned.close()
        await self._tenancy.close()
        await self._admin.close()
        for providers in (*self._retired, self._providers):
            for pool in providers.pools:
                pool.close()
        self._resolver.close()
        self._hangups.close()

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
            heartbeat=config.heartbeat,
            abandoned=self._abandoned,
            fast_path=config.fast_path,
            trace=self._log.state_changed if self._log.writes("debug") else None,
        )
        accounts = AccountSettings(
            Ratios(), max_event=config.max_event, hold=self._watermarks.high, quota=self._tenancy.quota
        )
        self.metrics.store = self._tenancy
        # Unique to this process, so that one relay behind another is not taken for a loop.
        self._pseudonym = b"flowserver-" + os.urandom(6).hex().encode()
        cors = None if config.cors_origins is None else Cors(config.cors_origins)
        return Admission(self._routing(), context, accounts, cors=cors)

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
            wall_clock=time.time,
        )

    def _show(self, topology: Topology) -> None:
        self.metrics.name_models(topology.models)
        self.metrics.upstreams = self._providers.hosts
        self.metrics.pools = self._providers.pools
        self.metrics.names = self._providers.names

    def _build_admin(self) -> Listener:
        admin = Admin(
            self.metrics,
            AdminHosts(self._config.admin_hosts, self._config.admin_listen),
            clock=time.monotonic,
            call_soon=self._loop.call_soon,
            is_draining=lambda: self._is_leaving,
        )
        return self._listener(admin.open_exchange, max_connections=256)

    def _build_tls(self) -> ssl.SSLContext | None:
        if self._tls_files is None:
            return None
        try:
            return server_context(self._tls_files)
        except OSError as error:
            raise ConfigError([f"FLOW_TLS_CERT, FLOW_TLS_KEY, FLOW_TLS_CLIENT_CA: can't be used: {error}"]) from None

    def _listener(
        self, open_exchange: OpenExchange, max_connections: int, tls: ssl.SSLContext | None = None
    ) -> Listener:
        config = self._config
        settings = ConnectionSettings(
            self._watermarks,
            max_connections=max_connections,
            head_timeout=config.head_timeout,
            keepalive_timeout=config.keepalive_timeout,
            stall_timeout=config.stall_timeout,
            stall_tokens=config.stall_tokens,
            limits_unsent=isinstance(config.notsent_lowat, Auto),
            serves_half_closed=config.half_close == "serve",
            h2=_h2_settings(config),
        )
        context = ListenerContext(
            settings=settings,
            open_exchange=open_exchange,
            observer=self.metrics,
            clock=time.monotonic,
            hangups=self._hangups,
            uploads=self._uploads,
            h2_totals=self.metrics.h2,
        )
        return Listener(context, tls=tls)

    # --- time ------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        interval = self._sweep_interval
        self._timer = self._loop.call_later(interval, self._sweep, time.monotonic() + interval)

    def _sweep(self, due: float) -> None:
        """Check all deadlines of the process."""
        now = time.monotonic()
        self.metrics.observe_lag(max(0.0, now - due))
        self._clients.sweep(now)
        self._admin.sweep(now)
        self._abandoned.sweep(now)
        self._sweep_providers(now)
        self.metrics.connections = self._clients.connections
        if self._empty is not None and not self._empty.done() and not self._clients.connections:
            self._empty.set_result(None)
        self._schedule_sweep()

    def _sweep_providers(self, now: float) -> None:
        for providers in (*self._retired, self._providers):
            for pool in providers.pools:
                pool.sweep(now)
        for providers in list(self._retired):
            if providers.is_unused:
                self._retired.remove(providers)
                for pool in providers.pools:
                    pool.close()


def _tls_files(config: Config) -> TlsFiles | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca)


def _h2_settings(config: Config) -> H2Settings:
    stream_window, connection_window = pinned(config.h2_stream_window), pinned(config.h2_connection_window)
    return H2Settings(
        stream_window=H2_STREAM_WINDOW if stream_window is None else stream_window,
        connection_window=H2_CONNECTION_WINDOW if connection_window is None else connection_window,
        windows_grow=stream_window is None and connection_window is None,
        max_streams=config.h2_max_streams,
        max_requests=config.h2_max_requests,
        max_uploads=config.h2_max_uploads,
        ping_interval=config.h2_ping_interval,
        limits=H2Limits(
            resets=config.h2_max_resets,
            pings=config.h2_max_pings,
            settings=config.h2_max_settings,
            priorities=config.h2_max_priorities,
            empty_frames=config.h2_max_empty_frames,
            window_updates=config.h2_max_window_updates,
            strays=config.h2_max_stray_frames,
            continuations=config.h2_max_continuations,
        ),
    )
