"""The TOML file of FLOW_CONFIG: which providers there are, which requests go to which, and who may send them.

Everything is checked at once; each mistake is told with its place, such as `upstreams[1].url`.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dialects.base import Auth
from ..dialects.profiles import quirks_for
from ..http.h1_fields import TOKEN
from ..http.messages import HOP_BY_HOP, REQUEST_OWN
from ..names import MODEL_BYTES, bounded
from ..quota.tenants import Tenant, is_pattern
from .addresses import Url
from .parsers import (
    MAX_COUNT,
    check_time,
    or_off,
    parse_auth,
    parse_dialect,
    parse_disconnect,
    parse_secret,
    parse_time,
    parse_url,
)
from .settings import Config, ConfigError
from .tenants import TenantError, check_path, read_tenants

SIGNED_AND_KEYED = "aws-sigv4 signs requests and takes no key; Amazon Bedrock API keys go with bearer"
PROTOCOLS = ("auto", "h1", "h2")
_RESERVED = frozenset(name.decode("ascii") for name in HOP_BY_HOP | REQUEST_OWN)


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One `[[upstreams]]` table. Times in seconds; None is off, or no limit."""

    name: str
    url: Url
    api_key: str | None = field(default=None, repr=False)
    """None: the client's own credentials pass."""
    protocol: str = "auto"
    """"auto": by ALPN over TLS, HTTP/1.1 else; "h2" on a plain port: with prior knowledge."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Added to each request, in place of the client's of the same name."""
    models: tuple[tuple[str, str], ...] = ()
    """The client's model names to the provider's."""
    weight: int = 1
    max_connections: int = 10_000
    max_concurrent: int | None = None
    queue: int = 0
    queue_timeout: float = 5.0
    ca: str | None = None
    verify: bool = True
    connect_timeout: float | None = None
    """None, as for the next four: the environment's."""
    first_byte_timeout: float | None = None
    idle_timeout: float | None = None
    keepalive: float | None = None
    max_age: float | None = None
    """Infinite: connections are kept however old they are."""
    dialect: str | None = None
    """Provider profile; None: detected from the host name."""
    auth: Auth | None = None
    """How it takes its key; None: detected from `dialect`, the host name or, failing both, each request."""
    ask_usage: bool | None = None
    """None: the environment's."""

    @property
    def own_auth(self) -> Auth | None:
        """As given, else as known of the provider."""
        return self.auth if self.auth is not None else quirks_for(self.dialect, self.url.host).auth

    @property
    def signs(self) -> bool:
        """Whether the relay signs the requests: what would take a signature takes an API key instead."""
        return self.own_auth is Auth.AWS_SIGV4 and self.api_key is None


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One `[[routes]]` table: names of upstreams in the order of fallback, those of one tier share the load."""

    path: str
    models: tuple[str, ...]
    tiers: tuple[tuple[str, ...], ...]
    max_tokens: int | None = None
    """None, as for the next: the environment's."""
    disconnect: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    upstreams: tuple[UpstreamSpec, ...]
    routes: tuple[RouteSpec, ...]
    tenants: tuple[Tenant, ...] = ()
    """Those of the file; there may be more in Redis."""
    open: bool = False
    """Whether the file says that it has no tenants on purpose."""

    @property
    def models(self) -> frozenset[str]:
        """The names of models in it, patterns left out."""
        names: set[str] = set()
        for upstream in self.upstreams:
            names.update(name for pair in upstream.models for name in pair)
        patterns = [pattern for route in self.routes for pattern in route.models]
        for tenant in self.tenants:
            patterns += tenant.models
            patterns += [pattern for limits in tenant.model_limits for pattern in limits.models]
        names.update(pattern for pattern in patterns if not is_pattern(pattern))
        return frozenset(bounded(name, MODEL_BYTES) for name in names)

    @property
    def swept_times(self) -> list[float | None]:
        """Its times that the periodic sweep enforces."""
        return [
            time
            for spec in self.upstreams
            for time in (
                spec.queue_timeout,
                spec.first_byte_timeout,
                spec.idle_timeout,
                spec.keepalive,
                spec.max_age,
            )
        ]


_ONE_PROVIDER = {
    "FLOW_UPSTREAM": "name the provider",
    "FLOW_UPSTREAM_API_KEY": "give the provider's `api_key`",
    "FLOW_UPSTREAM_DIALECT": "give the provider's `dialect`",
    "FLOW_UPSTREAM_AUTH": "give the provider's `auth`",
}
"""Settings of the provider without a file, and what to do instead."""


def load_topology(config: Config, environ: Mapping[str, str]) -> Topology:
    """The file of FLOW_CONFIG, or else the one provider of FLOW_UPSTREAM. Raises ConfigError with every problem."""
    if config.config is None:
        return _single(config)
    path = Path(config.config)
    tables = _parse(path)
    reader = _Reader(path.parent, environ)
    topology = reader.read(tables)
    given = (config.upstream, config.upstream_api_key, config.upstream_dialect, config.upstream_auth)
    for (env, remedy), value in zip(_ONE_PROVIDER.items(), given, strict=True):
        if value is not None:
            reader.problems.append(f"{env}: goes without FLOW_CONFIG only; {remedy} in the file")
    if reader.problems:
        raise ConfigError([f"{path}: {problem}" for problem in reader.problems])
    return topology


def _parse(path: Path) -> dict[str, Any]:
    """The file's tables. A byte order mark is accepted."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"FLOW_CONFIG: {path} can't be read: it is not UTF-8: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"FLOW_CONFIG: {path} can't be read: {error}"]) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise ConfigError([f"{path}: {error}"]) from None


def _single(config: Config) -> Topology:
    if config.upstream is None:
        raise ConfigError(
            ["FLOW_UPSTREAM: not set; give the provider's base URL, such as https://api.openai.com, or FLOW_CONFIG"]
        )
    if config.upstream_auth is Auth.AWS_SIGV4 and config.upstream_api_key is not None:
        raise ConfigError([f"FLOW_UPSTREAM_AUTH: {SIGNED_AND_KEYED}"])
    name = config.upstream.host
    spec = UpstreamSpec(
        name,
        config.upstream,
        api_key=config.upstream_api_key,
        dialect=config.upstream_dialect,
        auth=config.upstream_auth,
    )
    return Topology((spec,), (RouteSpec("*", (), ((name,),)),))


_Readers = dict[str, Callable[[Any], Any]]
"""Reads each value of a table, by its name. They raise ValueError."""


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self.problems: list[str] = []

    def read(self, tables: dict[str, Any]) -> Topology:
        self._only(tables, "", ("open", "upstreams", "routes", "tenants"))
        found = self._tables(tables, "upstreams")
        upstreams = [
            spec
            for number, table in enumerate(found)
            if (spec := self._upstream(table, f"upstreams[{number}]")) is not None
        ]
        names = [table["name"] for table in found if isinstance(table.get("name"), str)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problems.append(f"upstreams: the name {name!r} is there more than once")
        routes = [
            self._route(table, f"routes[{number}]", names)
            for number, table in enumerate(self._tables(tables, "routes"))
        ]
        if not upstreams and not self.problems:
            self.problems.append("upstreams: expected at least one [[upstreams]] table")
        if not routes:  # all of them, in their order
            routes = [RouteSpec("*", (), tuple((name,) for name in names))]
        tenants = self._tenants(tables)
        return Topology(tuple(upstreams), tuple(routes), tenants, self._open(tables))

    def _open(self, tables: dict[str, Any]) -> bool:
        value = tables.get("open", False)
        if not isinstance(value, bool):
            self.problems.append("open: expected true or false, above the first table")
        elif value and tables.get("tenants"):
            self.problems.append("open: true goes without [[tenants]] only")
        return value is True

    def _tenants(self, tables: dict[str, Any]) -> tuple[Tenant, ...]:
        try:
            return read_tenants(self._tables(tables, "tenants"))
        except TenantError as error:
            self.problems += error.problems
            return ()

    def _upstream(self, table: dict[str, Any], place: str) -> UpstreamSpec | None:
        before = len(self.problems)
        readers: _Readers = {
            "name": _text,
            "url": lambda value: parse_url(_text(value)),
            "api_key": self._secret,
            "protocol": _protocol,
            "headers": _headers,
            "models": _pairs,
            "weight": _count,
            "max_connections": _count,
            "max_concurrent": _count,
            "queue": _whole,
            "queue_timeout": _time,
            "ca": lambda value: str(self._folder / _text(value)),
            "verify": _flag,
            "connect_timeout": _time,
            "first_byte_timeout": _time,
            "idle_timeout": _time,
            "keepalive": _time,
            "max_age": _age,
            "dialect": lambda value: parse_dialect(_text(value)),
            "auth": lambda value: parse_auth(_text(value)),
            "ask_usage": _flag,
        }
        values = self._values(table, place, readers)
        for name in ("name", "url"):
            if name not in table:
                self.problems.append(f"{place}.{name}: is missing")
        if values.get("auth") is Auth.AWS_SIGV4 and "api_key" in table:
            self.problems.append(f"{place}.auth: {SIGNED_AND_KEYED}")
        return UpstreamSpec(**values) if len(self.problems) == before else None

    def _route(self, table: dict[str, Any], place: str, names: list[str]) -> RouteSpec:
        readers: _Readers = {
            "path": _path,
            "models": _patterns,
            "upstreams": _tiers,
            "max_tokens": _count,
            "disconnect": lambda value: parse_disconnect(_text(value)),
        }
        values = self._values(table, place, readers)
        tiers = values.pop("upstreams", ())
        if "upstreams" not in table:
            self.problems.append(f"{place}.upstreams: is missing")
        for name in (name for tier in tiers for name in tier):
            if name not in names:
                self.problems.append(f"{place}.upstreams: there is no upstream {name!r}")
        return RouteSpec(values.pop("path", "*"), values.pop("models", ()), tiers, **values)

    def _values(self, table: dict[str, Any], place: str, readers: _Readers) -> dict[str, Any]:
        """The values of a table; those that can't be read are left out."""
        self._only(table, place, tuple(readers))
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in readers:
                try:
                    values[name] = readers[name](value)
                except ValueError as error:
                    self.problems.append(f"{place}.{name}: {error}")
        return values

    def _secret(self, value: Any) -> str:
        """`env:NAME` or `file:PATH`; a key itself does not belong in a file that is shown around."""
        kind, _, where = _text(value).partition(":")
        if kind == "env" and where:
            secret = self._environ.get(where, "")
            if not secret:
                raise ValueError(f"the variable {where} is not set")
        elif kind == "file" and where:
            try:
                secret = (self._folder / where).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"the file {where} can't be read: {type(error).__name__}") from None
        else:
            raise ValueError("expected 'env:NAME' or 'file:PATH', not the key itself")
        return parse_secret(secret)

    def _tables(self, tables: dict[str, Any], name: str) -> list[dict[str, Any]]:
        value = tables.get(name, [])
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            self.problems.append(f"{name}: expected [[{name}]] tables")
            return []
        return value

    def _only(self, table: dict[str, Any], place: str, known: tuple[str, ...]) -> None:
        for name in table:
            if name == "open" and place:
                self.problems.append(f"{place}.open: goes above the first table")
            elif name not in known:
                where = f"{place}.{name}" if place else name
                self.problems.append(f"{where}: is not known; there is {', '.join(known)}")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text")
    if not value.isprintable():
        raise ValueError("expected a text without control characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _whole(value: Any, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_COUNT:
        raise ValueError(f"expected a whole number from {low} to {MAX_COUNT}")
    return value


def _count(value: Any) -> int:
    return _whole(value, 1)


def _time(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = check_time(value)
    else:
        seconds = parse_time(_text(value))
    if seconds <= 0:
        raise ValueError("expected a time above 0")
    return float(seconds)


def _age(value: Any) -> float:
    """A time, or infinity for `0` and what else is off in the environment."""
    if isinstance(value, str):
        seconds = or_off(parse_time)(_text(value))
        return math.inf if seconds is None else _time(seconds)
    return math.inf if value == 0 and not isinstance(value, bool) else _time(value)


def _protocol(value: Any) -> str:
    if value not in PROTOCOLS:
        raise ValueError(f"expected one of {', '.join(PROTOCOLS)}")
    return str(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a pattern such as '/v1/*'")
    if problem := check_path(value):
        raise ValueError(problem)
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(model, str) for model in value):
        raise ValueError("expected a list of patterns such as ['gpt-*']")
    return tuple(value)


def _tiers(value: Any) -> tuple[tuple[Any, ...], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of names, in the order of fallback")
    tiers = tuple(tuple(tier) if isinstance(tier, list) else (tier,) for tier in value)
    if not all(tiers):
        raise ValueError("a list inside it is empty")
    return tiers


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = _pairs(value)
    for name, text in pairs:
        if not re.fullmatch(TOKEN, name.encode()):
            raise ValueError(f"{name!r} is no name of a header")
        if name.lower() in _RESERVED:
            raise ValueError(f"{name!r} is the relay's own to write")
        if not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", text):
            raise ValueError(f"the value of {name!r} has characters that no header may have")
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is there more than once")
    return pairs


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError('expected a table such as { "name" = "value" }')
    return tuple(value.items())
