"""The TOML file of FLOW_CONFIG: the providers, which requests go to which, and who may send them.

Everything is checked at once; each mistake is reported with its place, such as `flowserver.toml: upstreams[1].url`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
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
from .entries import Key, Kind
from .parsers import (
    MAX_COUNT,
    check_positive,
    check_time,
    or_off,
    parse_auth,
    parse_dialect,
    parse_disconnect,
    parse_secret,
    parse_time,
    parse_url,
)
from .secrets import FORMS, is_reference, resolve
from .settings import Config, ConfigError
from .tables import FLAG, PATTERNS, TEXT, TableReader, repeated, whole_number
from .tenants import TenantError, check_path, read_tenants

SIGNED_AND_KEYED = "aws-sigv4 signs requests and takes no key; Amazon Bedrock API keys go with bearer"
_PROTOCOLS = ("auto", "h1", "h2")
_RESERVED = frozenset(name.decode("ascii") for name in HOP_BY_HOP | REQUEST_OWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """One `[[upstreams]]` table, with the environment's values for what it leaves out. Times in seconds; None is off,
    or no limit."""

    place: str = field(compare=False)
    """Where it comes from, for messages: `flowserver.toml: upstreams[1]`, or `FLOW_UPSTREAM`."""
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
    """None: the environment's, or the system's."""
    verify: bool = True
    connect_timeout: float
    first_byte_timeout: float | None
    idle_timeout: float | None
    keepalive: float | None
    """None: connections are not reused."""
    max_age: float | None
    dialect: str | None = None
    """Provider profile; None: detected from the host name."""
    auth: Auth | None = None
    """How it takes its key; None: detected from `dialect`, the host name or, failing both, each request."""
    ask_usage: bool

    @property
    def own_auth(self) -> Auth | None:
        """How it takes its key: as configured, else as known for this provider."""
        return self.auth if self.auth is not None else quirks_for(self.dialect, self.url.host).auth

    @property
    def signs(self) -> bool:
        """Whether the relay signs the requests. A provider that takes signatures also takes an API key instead."""
        return self.own_auth is Auth.AWS_SIGV4 and self.api_key is None


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One `[[routes]]` table: names of upstreams in the order of fallback, those of one tier share the load."""

    path: str
    models: tuple[str, ...]
    tiers: tuple[tuple[str, ...], ...]
    disconnect: str
    """`cancel` or `drain`."""
    max_tokens: int | None = None
    """None: no bound but the environment's."""


@dataclass(frozen=True, slots=True)
class Topology:
    upstreams: tuple[UpstreamSpec, ...]
    routes: tuple[RouteSpec, ...]
    tenants: tuple[Tenant, ...] = ()
    """Those of the file; Redis may have more."""
    open: bool = False
    """Whether the file says that it has no tenants on purpose."""

    @property
    def models(self) -> frozenset[str]:
        """The names of models in it, without patterns."""
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
        swept = [key.name for key in UPSTREAM_KEYS if key.swept]
        return [getattr(spec, name) for spec in self.upstreams for name in swept]


# --- kinds of values ---


def _time(value: Any) -> float:
    """Seconds, or text such as "500ms"."""
    if isinstance(value, str):
        return parse_time(TEXT.parse(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a time such as 30 or '500ms'")
    return check_time(float(value))


def _positive_time(value: Any) -> float:
    return check_positive(_time(value))


def _time_or_off(value: Any) -> float | None:
    """As in the environment, `0` and "off" are None."""
    if isinstance(value, str):
        return or_off(parse_time)(TEXT.parse(value))
    return _time(value) or None


def _protocol(value: Any) -> str:
    if value not in _PROTOCOLS:
        raise ValueError(f"expected one of {', '.join(_PROTOCOLS)}")
    return str(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a pattern such as '/v1/*'")
    if problem := check_path(value):
        raise ValueError(problem)
    return value


def _tiers(value: Any) -> tuple[tuple[Any, ...], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of names, in the order of fallback")
    tiers = tuple(tuple(tier) if isinstance(tier, list) else (tier,) for tier in value)
    if not all(tiers):
        raise ValueError("expected names in each inner list")
    return tiers


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError('expected a table such as { "name" = "value" }')
    return tuple(value.items())


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = _pairs(value)
    for name, text in pairs:
        if not re.fullmatch(TOKEN, name.encode()):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _RESERVED:
            raise ValueError(f"{name!r} is written by the relay itself")
        _check_header(name, text)
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError("expected each name once")
    return pairs


def _check_header(name: str, text: str) -> None:
    if not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", text):
        raise ValueError(f"the value of {name!r} has characters that are not allowed in a header")


def _reference(value: Any) -> str:
    """The key itself does not belong in a file that others may see."""
    text: str = TEXT.parse(value)
    if not is_reference(text):
        raise ValueError(f"expected {FORMS}, not the key itself")
    return text


def _array(name: str) -> Kind:
    def parse(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise ValueError(f"expected [[{name}]] tables")
        return value

    return Kind("tables", parse)


_COUNT = whole_number(1, MAX_COUNT)
_TIME = Kind("time", _positive_time)
_TIME_OR_OFF = Kind("time or `off`", _time_or_off)

# --- keys ---

FILE_KEYS = (
    Key(
        "open",
        FLAG,
        "Must be above the first table. true: the file has no tenants on purpose, so whoever reaches the relay may use "
        "it. Without it, a reload refuses a file that has lost its tenants.",
    ),
    Key("upstreams", _array("upstreams"), "The providers."),
    Key("routes", _array("routes"), "Which requests go to which provider; without routes, all go to all providers."),
    Key("tenants", _array("tenants"), "Who may use the relay."),
)
UPSTREAM_KEYS = (
    Key("name", TEXT, "Name in routes, log and metrics.", required=True),
    Key(
        "url",
        Kind("URL", lambda value: parse_url(TEXT.parse(value))),
        "Base URL, http or https; `http+unix://%2Frun%2Fvllm.sock/v1` for a Unix socket.",
        required=True,
    ),
    Key(
        "api_key",
        Kind("reference", _reference),
        "Where the API key is kept that is sent in place of the client's. Without it the client's own key is passed "
        "on.",
        secret=True,
    ),
    Key(
        "protocol",
        Kind("`auto`, `h1` or `h2`", _protocol),
        "HTTP version. auto (default): negotiated over TLS, else HTTP/1.1; h2 on a plain port is used without asking.",
    ),
    Key("headers", Kind("table", _headers), "Headers added to each request; a value may be a reference.", secret=True),
    Key("models", Kind("table", _pairs), "The client's model names and the provider's names for them."),
    Key("weight", _COUNT, "Share of the load within a tier; 1 by default."),
    Key("max_connections", _COUNT, "Most connections to the provider; 10000 by default."),
    Key("max_concurrent", _COUNT, "Most requests at a time; no limit by default."),
    Key("queue", whole_number(0, MAX_COUNT), "Most requests that wait for `max_concurrent`; 0 by default."),
    Key(
        "queue_timeout",
        _TIME,
        "Longest wait in the queue; then the next provider is tried, or the client gets 503. 5s by default.",
        swept=True,
    ),
    Key("ca", TEXT, "PEM file of the authorities to trust, relative to this file. In place of FLOW_UPSTREAM_CA."),
    Key("verify", FLAG, "false: any certificate is accepted. For tests only."),
    Key("connect_timeout", _TIME, "In place of FLOW_CONNECT_TIMEOUT.", inherits="connect_timeout"),
    Key(
        "first_byte_timeout",
        _TIME_OR_OFF,
        "In place of FLOW_FIRST_BYTE_TIMEOUT.",
        inherits="first_byte_timeout",
        swept=True,
    ),
    Key("idle_timeout", _TIME_OR_OFF, "In place of FLOW_IDLE_TIMEOUT.", inherits="idle_timeout", swept=True),
    Key("keepalive", _TIME_OR_OFF, "In place of FLOW_UPSTREAM_KEEPALIVE.", inherits="upstream_keepalive", swept=True),
    Key("max_age", _TIME_OR_OFF, "In place of FLOW_UPSTREAM_MAX_AGE.", inherits="upstream_max_age", swept=True),
    Key(
        "dialect",
        Kind("profile", lambda value: parse_dialect(TEXT.parse(value))),
        "Provider profile, such as `vllm`; detected from the host name by default.",
    ),
    Key(
        "auth",
        Kind(", ".join(f"`{auth}`" for auth in Auth), lambda value: parse_auth(TEXT.parse(value))),
        "How the provider takes its key; detected from the host name by default.",
    ),
    Key("ask_usage", FLAG, "In place of FLOW_ASK_USAGE.", inherits="ask_usage"),
)
ROUTE_KEYS = (
    Key("path", Kind("pattern", _path), "Paths of the requests, such as `/v1/*`; all by default."),
    Key("models", PATTERNS, "Models of the requests, such as `gpt-*`; all by default."),
    Key(
        "upstreams",
        Kind("list", _tiers),
        "Names of providers in the order of fallback; those of an inner list share the load.",
        required=True,
    ),
    Key("max_tokens", _COUNT, "Most output tokens of one answer; FLOW_MAX_TOKENS applies as well."),
    Key(
        "disconnect",
        Kind("`cancel` or `drain`", lambda value: parse_disconnect(TEXT.parse(value))),
        "In place of FLOW_DISCONNECT.",
        inherits="disconnect",
    ),
)

# --- reading ---

_ONE_PROVIDER = {
    "upstream": "name the provider",
    "upstream_api_key": "give the provider's `api_key`",
    "upstream_dialect": "give the provider's `dialect`",
    "upstream_auth": "give the provider's `auth`",
}
"""Settings of the only provider, and what to do instead where there is a file."""


def load_topology(config: Config, environ: Mapping[str, str]) -> Topology:
    """The file of FLOW_CONFIG, or else the one provider of FLOW_UPSTREAM. Raises ConfigError with every problem."""
    if config.config is None:
        return _single(config)
    path = Path(config.config)
    reader = _FileReader(path, config, environ)
    topology = reader.topology()
    problems = [f"{path}: {problem}" for problem in reader.problems]
    for name, remedy in _ONE_PROVIDER.items():
        if getattr(config, name) is not None:
            problems.append(f"FLOW_{name.upper()}: only allowed without FLOW_CONFIG; {remedy} in {path}")
    if problems:
        raise ConfigError(problems)
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
    name = config.upstream.place
    spec = UpstreamSpec(
        place="FLOW_UPSTREAM",
        name=name,
        url=config.upstream,
        api_key=config.upstream_api_key,
        dialect=config.upstream_dialect,
        auth=config.upstream_auth,
        **_inherited(UPSTREAM_KEYS, config),
    )
    return Topology((spec,), (_route_to((name,), config),))


def _inherited(keys: tuple[Key, ...], config: Config) -> dict[str, Any]:
    """The environment's values for what a table may set."""
    return {key.name: getattr(config, key.inherits) for key in keys if key.inherits}


def _route_to(names: tuple[str, ...], config: Config) -> RouteSpec:
    """A route for all requests, with these providers as fallbacks in order."""
    tiers = tuple((name,) for name in names)
    return RouteSpec(path="*", models=(), tiers=tiers, **_inherited(ROUTE_KEYS, config))


class _FileReader(TableReader):
    """Reads the file once."""

    def __init__(self, path: Path, config: Config, environ: Mapping[str, str]) -> None:
        super().__init__(top_level=("open",))
        self._path = path
        self._config = config
        self._environ = environ

    def topology(self) -> Topology:
        """What the file says; `problems` has what is wrong with it."""
        file = self.read(_parse(self._path), "", FILE_KEYS)
        tables = file.get("upstreams", [])
        upstreams = [self._upstream(table, f"upstreams[{number}]") for number, table in enumerate(tables)]
        names = [table["name"] for table in tables if isinstance(table.get("name"), str)]
        for name in repeated(names):
            self.problems.append(f"upstreams: the name {name!r} is used more than once")
        routes = [self._route(table, f"routes[{number}]", names) for number, table in enumerate(file.get("routes", []))]
        if not upstreams and not self.problems:
            self.problems.append("upstreams: expected at least one [[upstreams]] table")
        if file.get("open") and file.get("tenants"):
            self.problems.append("open: true is only allowed without [[tenants]]")
        return Topology(
            tuple(spec for spec in upstreams if spec is not None),
            tuple(routes) or (_route_to(tuple(names), self._config),),
            self._tenants(file.get("tenants", [])),
            open=file.get("open", False),
        )

    def _upstream(self, table: dict[str, Any], place: str) -> UpstreamSpec | None:
        before = len(self.problems)
        values = _inherited(UPSTREAM_KEYS, self._config) | self.read(table, place, UPSTREAM_KEYS)
        if values.get("auth") is Auth.AWS_SIGV4 and "api_key" in table:
            self.problems.append(f"{place}.auth: {SIGNED_AND_KEYED}")
        if "ca" in values:
            values["ca"] = str(self._path.parent / values["ca"])
        try:
            where = f"{place}.api_key"
            if "api_key" in values:
                values["api_key"] = parse_secret(self._resolve(values["api_key"]))
            where = f"{place}.headers"
            if "headers" in values:
                values["headers"] = tuple((name, self._header(name, text)) for name, text in values["headers"])
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
        return UpstreamSpec(place=f"{self._path}: {place}", **values) if len(self.problems) == before else None

    def _resolve(self, text: str) -> str:
        """What `text` refers to, files beside this one among it."""
        return resolve(text, self._environ, self._path.parent)

    def _header(self, name: str, text: str) -> str:
        value = self._resolve(text)
        _check_header(name, value)
        return value

    def _route(self, table: dict[str, Any], place: str, names: list[str]) -> RouteSpec:
        values = _inherited(ROUTE_KEYS, self._config) | self.read(table, place, ROUTE_KEYS)
        tiers = values.pop("upstreams", ())
        for name in (name for tier in tiers for name in tier):
            if name not in names:
                self.problems.append(f"{place}.upstreams: there is no upstream {name!r}")
        return RouteSpec(path=values.pop("path", "*"), models=values.pop("models", ()), tiers=tiers, **values)

    def _tenants(self, tables: list[dict[str, Any]]) -> tuple[Tenant, ...]:
        try:
            return read_tenants(tables)
        except TenantError as error:
            self.problems += error.problems
            return ()
