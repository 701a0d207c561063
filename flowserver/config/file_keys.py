"""The keys of the file of FLOW_CONFIG: the kind of each value, and its meaning. No I/O."""

from __future__ import annotations

import re
from typing import Any

from ..dialects.base import Auth
from ..dialects.profiles import QUIRKS
from ..http.h1_fields import TOKEN
from ..http.messages import HOP_BY_HOP, REQUEST_OWN
from .entries import Key, Kind, suggestion
from .parsers import (
    AUTO,
    MAX_COUNT,
    MAX_TIME,
    Auto,
    check_positive,
    check_time,
    or_off,
    parse_auth,
    parse_dialect,
    parse_disconnect,
    parse_time,
    parse_url,
)
from .prices import PRICE_KEYS, PRICES_FILE
from .secrets import FORMS, is_reference
from .tables import FLAG, PATTERNS, TEXT, table_of_keys, table_schema, whole_number
from .tenants import CLASS, TENANT_KEYS, check_path

_PROTOCOLS = ("auto", "h1", "h2")
_AFFINITIES = ("session", "prefix", "none")
_RESERVED = frozenset(name.decode("ascii") for name in HOP_BY_HOP | REQUEST_OWN)

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
    """A time; `0` and "off" are None, as in the environment."""
    if isinstance(value, str):
        return or_off(parse_time)(TEXT.parse(value))
    return _time(value) or None


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected a number from 0 to 1, such as 0.05")
    return float(value)


def _protocol(value: Any) -> str:
    if value not in _PROTOCOLS:
        raise ValueError(f"expected one of {', '.join(_PROTOCOLS)}{suggestion(value, _PROTOCOLS)}")
    return str(value)


def _affinity(value: Any) -> str:
    if value not in _AFFINITIES:
        raise ValueError(f"expected one of {', '.join(_AFFINITIES)}{suggestion(value, _AFFINITIES)}")
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
            raise ValueError(f"{name!r} is set by the relay itself")
        check_header(name, text)
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError("expected each name once")
    return pairs


def check_header(name: str, text: str) -> None:
    if not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", text):
        raise ValueError(f"the value of {name!r} contains characters that are not allowed in a header")


def _reference(value: Any) -> str:
    """A reference to a secret; the secret itself does not belong in a file that others may see."""
    text: str = TEXT.parse(value)
    if not is_reference(text):
        raise ValueError(f"expected {FORMS}, not the key itself")
    return text


def _target(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value) or "#" in value:
        raise ValueError("expected the path of a request, such as '/health', in ASCII and with a slash in front")
    return value


def _positive_share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError("expected a share above 0 and up to 1, such as 0.2")
    return float(value)


def _share_or_off(value: Any) -> float | None:
    return None if value == "off" else _positive_share(value)


def _factor_or_off(value: Any) -> float | None:
    if value == "off":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value <= 1000:
        raise ValueError("expected a number above 1 and up to 1000, such as 3, or off")
    return float(value)


def _outliers(value: Any) -> dict[str, Any]:
    """`true` means a table without keys."""
    if value is True:
        return {}
    if not isinstance(value, dict):
        raise ValueError("expected true, or a table such as { interval = '10s' }")
    return value


def _count_or_auto(value: Any) -> int | Auto:
    if value == "auto":
        return AUTO
    if isinstance(value, str):
        raise ValueError("expected a whole number or 'auto'")
    number: int = _COUNT.parse(value)
    return number


def _array(name: str, keys: tuple[Key, ...]) -> Kind:
    def parse(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise ValueError(f"expected [[{name}]] tables")
        return value

    return Kind("tables", parse, {"type": "array", "items": table_schema(keys)})


_WRITTEN_TIME = {"type": "string", "pattern": r"^\s*[0-9][0-9.]*\s*([a-zA-Z][0-9a-zA-Z.\s]*)?$"}
_OFF = {"enum": ["off", "none", "no", "false"]}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}

_COUNT = whole_number(1, MAX_COUNT)
_TIME = Kind(
    "time", _positive_time, {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIME}, _WRITTEN_TIME]}
)
_TIME_OR_OFF = Kind(
    "time or `off`",
    _time_or_off,
    {"anyOf": [{"type": "number", "minimum": 0, "maximum": MAX_TIME}, _WRITTEN_TIME, _OFF]},
)
_URL = Kind(
    "URL", lambda value: parse_url(TEXT.parse(value)), {"type": "string", "pattern": r"^\s*([hH][tT][tT][pP]).*://."}
)
_REFERENCE = Kind("reference", _reference, {"type": "string", "pattern": "^(env|file|credential):"})
_PROTOCOL = Kind("`auto`, `h1` or `h2`", _protocol, {"enum": [*_PROTOCOLS]})
_HEADERS = Kind("table", _headers, _STRINGS)
_NAMES = Kind("table", _pairs, _STRINGS)
_PROFILE = Kind("profile", lambda value: parse_dialect(TEXT.parse(value)), {"enum": sorted(QUIRKS)})
_AUTH = Kind(", ".join(f"`{auth}`" for auth in Auth), lambda value: parse_auth(TEXT.parse(value)), {"enum": [*Auth]})
_PATH = Kind("pattern", _path, {"type": "string", "pattern": r"^[/*?\[]"})
_COUNT_OR_AUTO = Kind("number or `auto`", _count_or_auto, {"anyOf": [_COUNT.schema, {"const": "auto"}]})
_TIERS = Kind(
    "list",
    _tiers,
    {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]},
    },
)
_AFFINITY = Kind("`session`, `prefix` or `none`", _affinity, {"enum": [*_AFFINITIES]})
_SHARE = Kind("share", _share, {"type": "number", "minimum": 0, "maximum": 1})
_DISCONNECT = Kind(
    "`cancel` or `drain`", lambda value: parse_disconnect(TEXT.parse(value)), {"enum": ["cancel", "drain"]}
)
_TARGET = Kind("path", _target, {"type": "string", "pattern": '^/[!-"$-~]*$'})
_POSITIVE_SHARE = Kind("share", _positive_share, {"type": "number", "exclusiveMinimum": 0, "maximum": 1})
_SHARE_OR_OFF = Kind("share or `off`", _share_or_off, {"anyOf": [_POSITIVE_SHARE.schema, {"const": "off"}]})
_FACTOR_OR_OFF = Kind(
    "number or `off`",
    _factor_or_off,
    {"anyOf": [{"type": "number", "exclusiveMinimum": 1, "maximum": 1000}, {"const": "off"}]},
)

# --- keys ---

HEALTH_KEYS = (
    Key(
        "path",
        _TARGET,
        "Path and query of the GET request, from the root of the server: the path in `url` is not prepended.",
        required=True,
    ),
    Key("interval", _TIME, "Time between two checks, plus or minus a tenth; 5s by default."),
    Key("timeout", _TIME, "Time for a complete answer, below `interval`; 2s by default."),
    Key("failures", _COUNT, "Failed checks in a row after which the provider gets no requests; 3 by default."),
    Key("successes", _COUNT, "Passed checks in a row after which it gets requests again; 2 by default."),
    Key("expect", whole_number(200, 599), "Status of a check that passes; 200 by default."),
)
OUTLIER_KEYS = (
    Key("interval", _TIME, "How often the providers are compared; 10s by default."),
    Key(
        "min_requests",
        _COUNT,
        "Least requests in an interval, of a provider and of the others, for a comparison; 10 by default.",
    ),
    Key(
        "max_errors",
        _SHARE_OR_OFF,
        "Share of requests with a 5xx status or an incomplete answer from which on a provider is ejected, if the "
        "others have less than half of it; 0.2 by default.",
    ),
    Key(
        "max_slowness",
        _FACTOR_OR_OFF,
        "How many times as long as the others' median a provider may take, on average, to begin its answers; 3 by "
        "default.",
    ),
    Key("slow_intervals", _COUNT, "Intervals in a row for which it may take longer; 3 by default."),
    Key("ejection", _TIME, "Duration of a first ejection; the next ones in a row last longer. 30s by default."),
    Key("max_ejected", _POSITIVE_SHARE, "Share of a tier that may be ejected at a time; 0.5 by default."),
)
UPSTREAM_KEYS = (
    Key("name", TEXT, "Name in routes, log and metrics.", required=True),
    Key(
        "url",
        _URL,
        "Base URL, http or https; `http+unix://%2Frun%2Fvllm.sock/v1` for a Unix socket.",
        required=True,
    ),
    Key(
        "api_key",
        _REFERENCE,
        "Reference to the API key that is sent in place of the client's. Without it the client's own key is passed on.",
        secret=True,
    ),
    Key(
        "protocol",
        _PROTOCOL,
        "HTTP version. auto (default): negotiated over TLS, else HTTP/1.1; h2 on a plain port uses prior knowledge.",
    ),
    Key("headers", _HEADERS, "Headers added to each request; a value may be a reference.", secret=True),
    Key("models", _NAMES, "The client's model names and the provider's names for them."),
    Key("weight", _COUNT, "Share of the load within a tier; 1 by default."),
    Key(
        "slow_start",
        _TIME_OR_OFF,
        "Time in which its share grows from a tenth to its full size when it comes back: its breaker closes, its "
        "checks pass again, or its ejection is over. Off by default.",
        swept=True,
    ),
    Key(
        "health",
        table_of_keys(HEALTH_KEYS),
        'Active health checks, such as `{ path = "/health" }`; none by default. See below.',
    ),
    Key("max_connections", _COUNT, "Most connections to the provider; 10000 by default."),
    Key(
        "max_concurrent",
        _COUNT_OR_AUTO,
        "Most concurrent requests; no limit by default. auto: as many as the provider serves well, which the relay "
        "learns from late first tokens and refusals.",
    ),
    Key(
        "queue",
        whole_number(0, MAX_COUNT),
        'Most requests that wait for `max_concurrent`; 0 by default, with "auto" as many as the current limit.',
    ),
    Key(
        "queue_timeout",
        _TIME,
        "Longest wait in the queue; then the next provider is tried, or the client gets 503. 5s by default.",
        swept=True,
    ),
    Key("ca", TEXT, "PEM file of the authorities to trust, relative to this file. Overrides FLOW_UPSTREAM_CA."),
    Key("verify", FLAG, "false: any certificate is accepted. Only for tests."),
    Key("connect_timeout", _TIME, "Overrides FLOW_CONNECT_TIMEOUT.", inherits="connect_timeout"),
    Key(
        "first_byte_timeout",
        _TIME_OR_OFF,
        "Overrides FLOW_FIRST_BYTE_TIMEOUT.",
        inherits="first_byte_timeout",
        swept=True,
    ),
    Key("idle_timeout", _TIME_OR_OFF, "Overrides FLOW_IDLE_TIMEOUT.", inherits="idle_timeout", swept=True),
    Key("keepalive", _TIME_OR_OFF, "Overrides FLOW_UPSTREAM_KEEPALIVE.", inherits="upstream_keepalive", swept=True),
    Key("max_age", _TIME_OR_OFF, "Overrides FLOW_UPSTREAM_MAX_AGE.", inherits="upstream_max_age", swept=True),
    Key(
        "dialect",
        _PROFILE,
        "Provider profile, such as `vllm`; detected from the host name by default.",
    ),
    Key(
        "auth",
        _AUTH,
        "How the provider takes its key; detected from the host name by default.",
    ),
    Key("ask_usage", FLAG, "Overrides FLOW_ASK_USAGE.", inherits="ask_usage"),
)
ROUTE_KEYS = (
    Key("path", _PATH, "Paths of the requests, such as `/v1/*`; all by default."),
    Key("models", PATTERNS, "Models of the requests, such as `gpt-*`; all by default."),
    Key(
        "upstreams",
        _TIERS,
        "Names of providers in the order of fallback; those of an inner list share the load.",
        required=True,
    ),
    Key(
        "class",
        CLASS,
        "`batch`: its requests give way to others; `interactive`, the default: the tenant's class applies.",
    ),
    Key(
        "affinity",
        _AFFINITY,
        "Which requests go to the same provider of an inner list, so that its cache is reused: those of one `session`, "
        "or those that begin alike (`prefix`). none by default.",
    ),
    Key("max_tokens", _COUNT, "Most output tokens of one answer; FLOW_MAX_TOKENS applies as well."),
    Key(
        "first_token_timeout",
        _TIME_OR_OFF,
        "Overrides FLOW_FIRST_TOKEN_TIMEOUT.",
        inherits="first_token_timeout",
    ),
    Key(
        "hedge_share",
        _SHARE,
        "Share of the requests, and of their input tokens, that may be sent to a second provider when the first one "
        "is late, such as 0.05; 0 by default. See [providers.md](providers.md#slow-first-tokens).",
    ),
    Key(
        "disconnect",
        _DISCONNECT,
        "Overrides FLOW_DISCONNECT.",
        inherits="disconnect",
    ),
    Key("websocket", FLAG, "Overrides FLOW_WEBSOCKET.", inherits="websocket"),
    Key(
        "outliers",
        Kind("`true` or table", _outliers, {"anyOf": [{"const": True}, table_schema(OUTLIER_KEYS)]}),
        "Compares the providers of each tier, and ejects those that do worse than the others for a while; off by "
        "default. See below.",
    ),
)
FILE_KEYS = (
    Key(
        "open",
        FLAG,
        "Must be above the first table. true: the file has no tenants on purpose, so anyone who can reach the relay "
        "may use it. Without it, a reload refuses a file that has lost its tenants.",
    ),
    PRICES_FILE,
    Key("upstreams", _array("upstreams", UPSTREAM_KEYS), "The providers."),
    Key(
        "routes",
        _array("routes", ROUTE_KEYS),
        "Which requests go to which provider; without routes, all go to all providers.",
    ),
    Key("tenants", _array("tenants", TENANT_KEYS), "Who may use the relay."),
    Key("prices", _array("prices", PRICE_KEYS), "What tokens cost. Without prices no cost is known."),
)
