"""The kinds of values that environment variables have."""

from __future__ import annotations

from ..dialects.base import Auth
from . import parsers as p
from .access_log import parse_access_log
from .entries import Kind
from .otel import parse_headers


def _or_off(kind: Kind) -> Kind:
    return Kind(f"{kind.name} or `off`", p.or_off(kind.parse))


def _or_auto(kind: Kind) -> Kind:
    return Kind(f"{kind.name} or `auto`", p.or_auto(kind.parse))


def _optional(kind: Kind) -> Kind:
    """A kind whose value may be empty."""
    return Kind(kind.name, p.optional(kind.parse))


_ADDRESS = Kind("address", p.parse_listen)
_BUFFER = Kind("size", p.parse_buffer)

ADDRESSES = Kind("addresses", p.parse_addresses)
ADDRESS_OR_OFF = _or_off(_ADDRESS)
SOCKET_OR_OFF = _or_off(Kind("`unix:/PATH`", p.parse_unix))
NETWORKS = Kind("networks", p.parse_networks)
HOSTS = Kind("host names", p.parse_hosts)
ORIGINS_OR_OFF = _or_off(Kind("origins", p.parse_origins))
FILE = _optional(Kind("path or `credential:NAME`", str))
URL = _optional(Kind("URL", p.parse_url))
REDIS_URL = _optional(Kind("URL or reference", p.parse_redis_url))
KEY = _optional(Kind("key or reference", p.parse_secret))
ADMIN_TOKEN = _optional(Kind("token or reference", p.parse_admin_token))

SIZE = Kind("size", p.parse_size)
SIZE_OR_AUTO_OR_OFF = Kind("size, `auto` or `off`", p.or_off(p.or_auto(p.parse_size)))
BODY_SIZE = Kind("size", p.parse_body_size)
BUFFER = _BUFFER
BUFFER_OR_AUTO = _or_auto(_BUFFER)
BUFFER_OR_AUTO_OR_OFF = Kind("size, `auto` or `off`", p.or_off(BUFFER_OR_AUTO.parse))
WINDOW = Kind("size", p.parse_window)
WINDOW_OR_AUTO = _or_auto(WINDOW)

TIME = Kind("time", p.parse_time)
TIME_OR_OFF = _or_off(TIME)
POSITIVE_TIME = Kind("time", p.parse_positive_time)
POSITIVE_TIME_OR_OFF = _or_off(POSITIVE_TIME)
LEASE_TIME = Kind("time", p.parse_lease_time)
DRAIN_TARGET = Kind("time", p.parse_drain_target)

COUNT = Kind("number", p.parse_count)
COUNT_OR_AUTO = _or_auto(COUNT)
COUNT_OR_OFF = _or_off(COUNT)
WORKERS = _or_auto(Kind("number", p.parse_workers))

RATIO = Kind("number from 0 to 1", p.parse_ratio)
HEADERS = Kind("list or reference", parse_headers)

SWITCH = Kind("`on` or `off`", p.parse_switch)
HALF_CLOSE = Kind("`leave` or `serve`", p.parse_half_close)
DISCONNECT = Kind("`cancel` or `drain`", p.parse_disconnect)
MEMORY_LEVEL_OR_OFF = Kind("`tight`, `no_batch`, `full`, `cutting` or `off`", p.or_off(p.parse_memory_level))
POLICY = Kind("`open` or `closed`", p.parse_policy)
ACCESS_LOG = Kind("`on`, `errors`, `off` or `sample:SHARE`", parse_access_log)
LOG_FORMAT = Kind("`auto`, `json` or `text`", p.parse_log_format)
GENAI_NAMES = Kind("`old`, `new` or `both`", p.parse_genai_names)
READY = Kind(", ".join(f"`{ready}`" for ready in p.Ready), p.parse_ready)
LOG_LEVEL = Kind("`debug`, `info`, `warning` or `error`", p.parse_log_level)
DIALECT = _optional(Kind("profile", p.parse_dialect))
AUTH = _optional(Kind(", ".join(f"`{auth}`" for auth in Auth), p.parse_auth))
