"""Parsers of settings: sizes, times, addresses, URLs. They raise ValueError with what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from fractions import Fraction
from ipaddress import ip_network
from itertools import pairwise
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from ..dialects.base import Auth
from ..dialects.profiles import QUIRKS
from ..errors import RelayError
from ..http.paths import canonical_target
from .addresses import DEFAULT_PORTS, Address, Networks, Url
from .entries import suggestion

_T = TypeVar("_T")


_NUMBER = r"\d{1,20}(?:\.\d{1,20})?"
_SIZE = re.compile(rf"({_NUMBER})\s*(k|m|g)?i?b?", re.IGNORECASE)
_PART_OF_TIME = re.compile(rf"({_NUMBER})\s*(ms|sec|s|min|m|h|d)\s*", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SECONDS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "sec": 1.0, "s": 1.0, "ms": 0.001}

MAX_SIZE = 1 << 40
MAX_COUNT = 1_000_000_000
MAX_TIME = 8760 * 3600.0
"""Upper bounds of sizes, counts and times that have no smaller one: 1024g, a billion, 8760h (a year)."""
MAX_WORKERS = 256
MIN_ADMIN_TOKEN = 16
MAX_BUFFER = 1 << 30
"""Upper bound of buffers: the kernel takes their sizes as signed 32-bit integers."""
MAX_WINDOW = 2**31 - 1
"""Upper bound of flow-control windows (RFC 9113 section 6.9.1)."""


def parse_size(text: str) -> int:
    """`16384`, `64k`, `64 KiB`, `1.5m` -> bytes; units are powers of 1024."""
    return _size(text, 0, MAX_SIZE)


def parse_buffer(text: str) -> int:
    """The size of a buffer, above 0."""
    return _size(text, 1, MAX_BUFFER)


def parse_body_size(text: str) -> int:
    """The size of a body, above 0."""
    return _size(text, 1, MAX_SIZE)


def parse_window(text: str) -> int:
    """The size of a flow-control window (RFC 9113 section 6.9.1)."""
    return _size(text, 65_535, MAX_WINDOW)


def _size(text: str, low: int, high: int) -> int:
    match = _SIZE.fullmatch(_ungrouped(text))
    exact = Fraction(match[1]) * _FACTORS[(match[2] or "").lower()] if match else Fraction(1, 2)
    if exact.denominator != 1:
        raise ValueError("expected a size such as 65536, 64k or 1m")
    size = int(exact)
    if not low <= size <= high:
        raise ValueError(f"expected a size from {_size_text(low)} to {_size_text(high)}")
    return size


def _ungrouped(number: str) -> str:
    """`number` without underscores between its digits, as in Python and TOML, and without whitespace around it."""
    return re.sub(r"(?<=\d)_(?=\d)", "", number.strip())


def _size_text(size: int) -> str:
    unit = next((unit for unit in ("g", "m", "k") if size and size % _FACTORS[unit] == 0), "")
    return f"{size // _FACTORS[unit]}{unit}"


def parse_time(text: str) -> float:
    """`500ms`, `30s`, `5m`, `1h30m`, `1d` or plain seconds -> seconds. Longer units come first, each once."""
    number = text.strip()
    if re.fullmatch(_NUMBER, number):
        return check_time(float(number))
    parts = [(float(part), _SECONDS[unit.lower()]) for part, unit in _PART_OF_TIME.findall(number)]
    units = [unit for _, unit in parts]
    if not parts or _PART_OF_TIME.sub("", number) or any(a <= b for a, b in pairwise(units)):
        raise ValueError("expected a time such as 500ms, 30s or 5m")
    return check_time(sum(part * unit for part, unit in parts))


def check_time(seconds: float) -> float:
    """`seconds`, if it is neither negative nor too large; else raises ValueError."""
    if not 0 <= seconds <= MAX_TIME:
        raise ValueError("expected a time from 0 to 8760h, a year")
    return seconds


def parse_positive_time(text: str) -> float:
    """A time above zero."""
    return check_positive(parse_time(text))


def parse_lease_time(text: str) -> float:
    """A time long enough for a lease to be renewed before it expires."""
    seconds = parse_time(text)
    if seconds < 1:
        raise ValueError("expected a time of at least 1s")
    return seconds


def parse_drain_target(text: str) -> float:
    """A time that is neither too short for the kernel's timers nor too long to be a bound."""
    seconds = parse_time(text)
    if not 0.01 <= seconds <= 60:
        raise ValueError("expected a time from 10ms to 60s")
    return seconds


def check_positive(seconds: float) -> float:
    """`seconds`, if it is not zero; else raises ValueError."""
    if seconds <= 0:
        raise ValueError("expected a time above 0")
    return seconds


def parse_ratio(text: str) -> float:
    """`0.25` -> 0.25."""
    match = re.fullmatch(r"\s*([01](?:\.[0-9]{1,20})?|\.[0-9]{1,20})\s*", text)
    if match is None or float(match[1]) > 1:
        raise ValueError("expected a number from 0 to 1, such as 0.05")
    return float(match[1])


def parse_count(text: str) -> int:
    number = _ungrouped(text)
    if not number.isdecimal() or len(number) > 20 or not 1 <= int(number) <= MAX_COUNT:
        raise ValueError(f"expected a whole number from 1 to {MAX_COUNT}")
    return int(number)


def parse_workers(text: str) -> int:
    number = text.strip()
    if not number.isdecimal() or len(number) > 4 or not 1 <= int(number) <= MAX_WORKERS:
        raise ValueError(f"expected a whole number from 1 to {MAX_WORKERS}")
    return int(number)


MAX_SOCKET_PATH = 107
"""Most bytes of a Unix socket's path: the kernel's limit (unix(7)) less the terminating null."""


def _socket_path(path: str) -> str:
    """The path of a Unix socket, which must be absolute, since the other side may have another working directory."""
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError("expected the absolute path of a Unix socket, such as /run/flowserver.sock")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"expected a path of at most {MAX_SOCKET_PATH} bytes, the limit for Unix sockets")
    return path


def parse_address(text: str) -> Address:
    """`host:port`, `[v6]:port`, or `:port` for all interfaces, IPv4 and IPv6."""
    host, colon, port = text.strip().rpartition(":")
    if not colon and port.isdecimal():
        raise ValueError(f"expected an address such as 127.0.0.1:{port}, or :{port} for all interfaces")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ValueError("expected an address such as 127.0.0.1:8080 or [::1]:8080")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets: [::1]:8080")
    return Address(host, int(port))


def parse_listen(text: str) -> Address:
    """An address, or `unix:/path`."""
    kind, colon, path = text.strip().partition(":")
    if colon and kind == "unix" and not path.isdecimal():
        return Address("", 0, _socket_path(path))
    try:
        return parse_address(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a Unix socket such as unix:/run/flowserver.sock") from None


def parse_unix(text: str) -> Address:
    """`unix:/path`."""
    kind, _, path = text.strip().partition(":")
    if kind != "unix":
        raise ValueError("expected a Unix socket such as unix:/run/flowserver/control.sock")
    return Address("", 0, _socket_path(path))


def parse_addresses(text: str) -> tuple[Address, ...]:
    addresses = tuple(parse_listen(part) for part in text.split(",") if part.strip())
    if not addresses:
        raise ValueError("expected at least one address")
    return addresses


def parse_networks(text: str) -> Networks:
    """Networks, or single addresses, separated by commas; `unix` for Unix sockets."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        networks = [ip_network(part) for part in parts if part.lower() != "unix"]
    except ValueError as error:
        raise ValueError(f"expected networks such as 10.0.0.0/8,2001:db8::/32 or unix ({error})") from None
    return Networks(networks, has_unix=len(networks) < len(parts))


_HOST = re.compile(r"(\*|(\*\.)?[0-9a-z_]([0-9a-z_.-]*[0-9a-z_])?|[0-9a-f:.]*:[0-9a-f:.]*)")


def parse_hosts(text: str) -> frozenset[str]:
    """Host names or addresses without ports, separated by commas; `*.name` for all subdomains, `*` for any."""
    hosts = frozenset(part.strip().lower().strip("[]").rstrip(".") for part in text.split(",") if part.strip())
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError("expected host names without ports, such as metrics.example,*.svc.cluster.local")
    return hosts


_OVER_UNIX = "http+unix"
_SOCKET_URL = "expected the socket's percent-encoded path as the host, as in http+unix://%2Frun%2Fvllm.sock/v1"


def parse_url(text: str) -> Url:
    """A base URL, its path in canonical form. Query, fragment and credentials are refused, since they would be dropped
    silently."""
    expected = "expected a base URL such as https://api.openai.com"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        reason = "" if "@" in text else f" ({error})"  # the error may repeat part of the credentials
        raise ValueError(f"{expected}{reason}") from None
    if parts.scheme in ("unix", _OVER_UNIX) and not parts.hostname:
        raise ValueError(_SOCKET_URL)
    if parts.scheme not in ("http", "https", _OVER_UNIX) or not parts.hostname:
        raise ValueError(f"{expected}{_with_scheme(text.strip())}")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(f"{expected}, without query, fragment or credentials")
    over_unix = parts.scheme == _OVER_UNIX
    place = _socket_of(parts.netloc) if over_unix else ""
    try:
        parts.path.encode("ascii")
        host = "localhost" if over_unix else parts.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{expected}, with an ASCII path and a host name that DNS can carry") from None
    if re.search(r"[\x00-\x20\x7f]", parts.path + host):
        raise ValueError(f"{expected}, without whitespace or control characters")
    path = canonical_target(parts.path.rstrip("/").encode("ascii") or b"/")
    if isinstance(path, RelayError):
        raise ValueError(f"{expected}. {path.message}")
    scheme = "http" if over_unix else parts.scheme
    return Url(scheme, host, port or DEFAULT_PORTS[scheme], path.decode("ascii").rstrip("/"), place)


def _with_scheme(text: str) -> str:
    """The end of the message about a URL without a scheme: a suggestion."""
    match = re.fullmatch(r"([a-z0-9.-]+)(:\d+)?(/[\w./-]*)?", text, re.IGNORECASE)
    if match is None or not match[1].strip("."):
        return ""
    is_near = match[1] == "localhost" or re.fullmatch(r"[\d.]+", match[1]) is not None
    return f"; did you mean {'http' if is_near else 'https'}://{text}?"


def _socket_of(authority: str) -> str:
    """The path of a Unix socket from its percent-encoded form in place of the URL's host."""
    if ":" in authority:
        raise ValueError(f"{_SOCKET_URL}, without a port")
    try:
        return _socket_path(unquote(authority, errors="strict"))
    except ValueError as error:
        raise ValueError(f"{_SOCKET_URL}: {error}") from None


_OFF = re.compile(r"|off|none|no|false|0(\.0+)?(ms|s|m|h|k|g)?", re.IGNORECASE)


def optional(parse: Callable[[str], _T]) -> Callable[[str], _T | None]:
    """`0`, `off`, `none` and the empty text mean None."""

    def parser(text: str) -> _T | None:
        return None if _OFF.fullmatch(text.strip()) else parse(text)

    return parser


def parse_genai_names(text: str) -> GenAiNames:
    try:
        return GenAiNames(text.strip().lower())
    except ValueError:
        raise ValueError(f"expected {GenAiNames.OLD}, {GenAiNames.NEW} or {GenAiNames.BOTH}") from None


def or_off(parse: Callable[[str], _T]) -> Callable[[str], _T | None]:
    """The same for a value that is usually on: messages mention `off`."""
    parse_optional = optional(parse)

    def parser(text: str) -> _T | None:
        try:
            return parse_optional(text)
        except ValueError as error:
            raise ValueError(_expected_too(error, "off")) from None

    return parser


def _expected_too(error: ValueError, word: str) -> str:
    """The message of `error` with one more expected word, before its suggestion."""
    expected, hint, guess = str(error).partition("; did you mean")
    return f"{expected}, or {word}{hint}{guess}"


class Ready(StrEnum):
    """What /readyz depends on."""

    LISTENING = "listening"
    ANY_UPSTREAM = "any_upstream"
    """At least one provider must be available."""
    ALL_UPSTREAMS = "all_upstreams"


class GenAiNames(StrEnum):
    """Which version of OpenTelemetry's conventions for generative AI names the metrics."""

    OLD = "old"
    """semantic-conventions 1.36"""
    NEW = "new"
    """semantic-conventions-genai 0.1.0"""
    BOTH = "both"


class Auto(Enum):
    """A value that the relay chooses and adapts."""

    AUTO = "auto"


AUTO = Auto.AUTO


def pinned(value: _T | Auto) -> _T | None:
    """The value; None if it is left to the relay."""
    return None if isinstance(value, Auto) else value


def or_auto(parse: Callable[[str], _T]) -> Callable[[str], _T | Auto]:
    """The same for a value that the relay can choose: messages mention `auto`."""

    def parser(text: str) -> _T | Auto:
        if text.strip().lower() == AUTO.value:
            return AUTO
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(_expected_too(error, "auto")) from None

    return parser


_NO_ALIASES: Mapping[str, str] = {}


def _one_of(*choices: str, aliases: Mapping[str, str] = _NO_ALIASES) -> Callable[[str], str]:
    """A parser that accepts one of these words, in upper or lower case. `aliases`: other spellings."""
    expected = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"

    def parser(text: str) -> str:
        word = text.strip().lower()
        value = aliases.get(word, word)
        if value not in choices:
            raise ValueError(f"expected {expected}{suggestion(value, choices)}")
        return value

    return parser


parse_disconnect = _one_of("cancel", "drain")
parse_memory_level = _one_of("tight", "no_batch", "full", "cutting")
parse_policy = _one_of("open", "closed")
parse_half_close = _one_of("leave", "serve")
parse_log_format = _one_of("auto", "json", "text")
parse_log_level = _one_of("debug", "info", "warning", "error", aliases={"warn": "warning", "err": "error"})
parse_dialect = _one_of(*sorted(QUIRKS))
_switch = _one_of(
    "on",
    "off",
    aliases={**dict.fromkeys(("true", "yes", "1"), "on"), **dict.fromkeys(("false", "no", "0", "none"), "off")},
)
_auth = _one_of(*Auth)
_ready = _one_of(*Ready)


def parse_switch(text: str) -> bool:
    return _switch(text) == "on"


def parse_ready(text: str) -> Ready:
    return Ready(_ready(text))


def parse_auth(text: str) -> Auth:
    return Auth(_auth(text))


def parse_redis_url(text: str) -> str:
    """A URL for the Redis client, checked for mistakes that the client would report late or not at all."""
    expected = "expected a URL such as redis://127.0.0.1:6379/0 (redis, rediss, either with +cluster, or unix)"
    url = text.strip()
    try:
        parts = urlsplit(url)
        has_place = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix") or not has_place or port == 0:
        raise ValueError(expected)
    return url


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins separated by commas, in browsers' form: in lower case and without the scheme's default port; or `*`."""
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    if parts == ["*"]:
        return ("*",)
    return tuple(map(_origin, parts))


def _origin(text: str) -> str:
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError("expected * or origins such as https://app.example.com,http://localhost:3000")
    scheme, host, port = match.groups()
    is_default = port is None or int(port) == DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" + ("" if is_default else f":{port}")


def parse_admin_token(text: str) -> str:
    """A token that is long enough not to be guessed."""
    if len(parse_secret(text)) < MIN_ADMIN_TOKEN:
        raise ValueError(f"expected at least {MIN_ADMIN_TOKEN} characters; `openssl rand -hex 32` generates one")
    return text


def parse_secret(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected a key in printable ASCII without spaces")
    return text
