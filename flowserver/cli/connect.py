"""`flowserver check --connect`: tests everything that the relay connects to, all at once and within a few seconds.

Nothing is sent to a provider except the TLS handshake, and nothing is written to Redis. A running relay is not
disturbed: sockets are bound, but never listen.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..app.listen_remedy import listen_remedy
from ..config.addresses import Address
from ..config.secrets import remedy_of
from ..config.settings import Config
from ..config.topology import Topology, UpstreamSpec
from ..net.port_holder import holder_of
from ..quota.limits import RequestBucket, StoreUnavailable
from ..stores.redis_store import RedisStore
from ..upstream.dialer import Dialer, DialError, tls_context
from ..upstream.resolver import Resolver, fixed_address
from .certificates import valid_until

LONGEST = 5.0
"""Most seconds that one test may take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one test."""

    what: str
    """`upstream openai`, or the name of a setting."""
    ok: bool
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{'ok' if self.ok else 'failed':<6}  {self.what}: {self.text}{remedy}"


async def findings(config: Config, topology: Topology) -> list[Finding]:
    """A result for each file, address and provider, and for Redis. Never raises."""
    resolver = Resolver()
    trials = [_upstream(config, spec, resolver) for spec in topology.upstreams]
    if config.redis_url is not None:
        trials.append(_redis(config.redis_url))
    try:
        return [*_files(config, topology), *_listeners(config), *_keys(topology), *await asyncio.gather(*trials)]
    finally:
        resolver.close()


# --- files ---


def _files(config: Config, topology: Topology) -> Iterable[Finding]:
    """The files that are named. They have been read before: a file that can't be read ends the check earlier."""
    for setting, path in (
        ("FLOW_CONFIG", config.config),
        ("FLOW_TLS_CERT", config.tls_cert),
        ("FLOW_TLS_KEY", config.tls_key),
        ("FLOW_TLS_CLIENT_CA", config.tls_client_ca),
        ("FLOW_UPSTREAM_CA", config.upstream_ca),
        *((f"{spec.place}.ca", spec.ca) for spec in topology.upstreams),
    ):
        if path is not None:
            yield _file(setting, path)


def _file(setting: str, path: str) -> Finding:
    try:
        Path(path).read_bytes()
    except OSError as error:
        return Finding(setting, False, f"{path}: {error.strerror}", remedy_of(error))
    return Finding(setting, True, f"{path} is readable")


def _keys(topology: Topology) -> Iterable[Finding]:
    for spec in topology.upstreams:
        if spec.api_key is not None:
            yield Finding(f"upstream {spec.name}", True, "its key is there")


# --- addresses ---


def _listeners(config: Config) -> Iterable[Finding]:
    for address in config.listen:
        yield _listener("FLOW_LISTEN", address, config)
    if config.admin_listen is not None:
        yield _listener("FLOW_ADMIN_LISTEN", config.admin_listen, config)


def _listener(setting: str, address: Address, config: Config) -> Finding:
    try:
        if address.path:
            _try_path(address.path)
        else:
            _try_port(address, config.reuse_port)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            return _in_use(setting, address)
        text = f"can't listen on {address}: {getattr(error, 'strerror', None) or error}"
        return Finding(setting, False, text, listen_remedy(address, code))
    return Finding(setting, True, f"{address} is free")


def _in_use(setting: str, address: Address) -> Finding:
    holder = holder_of(address.port, address.path)
    if holder is not None and "flowserver" in holder.command:
        return Finding(setting, True, f"{address} is in use by a relay, {holder}")
    return Finding(setting, False, f"{address} is in use", listen_remedy(address, errno.EADDRINUSE))


def _try_port(address: Address, reuse_port: bool) -> None:
    """Bind and close: as the socket never listens, no client connects to it."""
    host = address.host or "0.0.0.0"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        trial.bind((host, address.port))


def _try_path(path: str) -> None:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode) or holder_of(0, path) is not None:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


# --- providers ---


async def _upstream(config: Config, spec: UpstreamSpec, resolver: Resolver) -> Finding:
    what = f"upstream {spec.name}"
    began = time.monotonic()
    timeout = min(spec.connect_timeout, LONGEST)
    try:
        if fixed_address(spec.url) is None:
            async with asyncio.timeout(timeout):
                await resolver.resolve(spec.url.host, fresh_for=LONGEST)
    except TimeoutError:
        remedy = "check this machine's resolver (/etc/resolv.conf)"
        return Finding(what, False, f"DNS did not answer for {spec.url.host} within {timeout:g} s", remedy)
    except OSError as error:
        text = f"DNS does not know {spec.url.host}: {error.strerror or error}"
        return Finding(what, False, text, "is the name right, and can this machine reach its resolver?")
    try:
        context = None
        if spec.url.scheme == "https":
            context = tls_context(spec.ca or config.upstream_ca, verify=spec.verify, protocols=["h2", "http/1.1"])
        dialer = Dialer(spec.url, resolver, timeout=timeout, tls=context)
        connection = await dialer.dial(_Connection, lambda _: None)
    except DialError as error:
        reason = (
            error.error.message.removeprefix("The provider ").removesuffix(".").removesuffix(" (see FLOW_UPSTREAM_CA)")
        )
        return Finding(what, False, f"{spec.url} {reason}", _dial_remedy(spec, reason))
    except OSError as error:
        return Finding(what, False, f"{spec.url}: {error.strerror or error}", _dial_remedy(spec, ""))
    text = connection.described()
    connection.transport.abort()
    return Finding(what, True, f"{spec.url} {text}, {round((time.monotonic() - began) * 1000)} ms")


class _Connection(asyncio.BufferedProtocol):
    """A connection on which nothing is sent."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray(4096)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None: ...

    def described(self) -> str:
        tls = self.transport.get_extra_info("ssl_object")
        if tls is None:
            return "can be reached, without TLS"
        spoken = tls.selected_alpn_protocol() or "http/1.1"
        certificate = tls.getpeercert(binary_form=True)
        until = f", certificate until {valid_until(certificate)}" if certificate else ""
        return f"is reached, {tls.version()}, {spoken}{until}"


def _dial_remedy(spec: UpstreamSpec, message: str) -> str:
    if "certificate" in message:
        if "expired" in message:
            return "the certificate must be renewed; is this machine's clock right?"
        where = "FLOW_UPSTREAM_CA" if spec.place == "FLOW_UPSTREAM" else f"`ca` of {spec.place}"
        return f"name the file of its authorities in {where}, or correct the host name in the URL"
    if "TLS" in message:
        return "does it speak TLS on this port? If not, write http:// instead of https://"
    if spec.url.socket:
        return "is it running, and may this user write to its socket?"
    return f"is it running, is {spec.url.port} its port, and does a firewall block this machine?"


# --- Redis ---


async def _redis(url: str) -> Finding:
    store = RedisStore(url, deadline=LONGEST * 1000)
    limit = RequestBucket("{flowserver-check}:requests", 1, 1, 1)
    try:
        await store.connect(LONGEST)
        await store.usage([limit])
    except (StoreUnavailable, OSError) as error:
        return Finding("FLOW_REDIS_URL", False, str(error), _redis_remedy(str(error)))
    except Exception as error:  # redis-py's parsers and clients raise many kinds
        return Finding("FLOW_REDIS_URL", False, f"Redis: {error}", "is Redis listening there?")
    finally:
        await store.close()
    return Finding("FLOW_REDIS_URL", True, "Redis answers, and runs the scripts")


def _redis_remedy(message: str) -> str:
    if "WRONGPASS" in message or "NOAUTH" in message or "AUTH" in message:
        return "give user and password, redis://USER:PASSWORD@HOST, or keep the URL elsewhere: env:NAME, file:PATH"
    if "NOPERM" in message:
        return "let this user run EVAL, EVALSHA and the commands on flow:* keys (ACL SETUSER)"
    if "OOM" in message or "READONLY" in message:
        return "name the primary, and check that it has free memory"
    return "is Redis running there, and does it need rediss:// (TLS)?"
