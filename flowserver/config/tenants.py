"""Tenants as tables: in the TOML file, and in the JSON of a directory. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..quota.money import usd_text
from ..quota.tenants import ModelLimits, Tenant, TenantKey, TenantLimits
from ..quota.traffic_class import INTERACTIVE, TrafficClass, parse_class
from .entries import Key, Kind, suggestion
from .tables import (
    FLAG,
    PATTERNS,
    SOME_PATTERNS,
    TEXT,
    TableReader,
    decimal_number,
    repeated,
    table_of_keys,
    tables_of_keys,
    whole_number,
)

MOST = 75_000_000_000
"""The largest limit. A token bucket of this size is still counted exactly."""

MOST_USD = 4_000_000
"""The largest limit in dollars. Twice this is still counted exactly, to the nano-dollar."""

_BURSTS = {"request_burst": "requests_per_minute", "token_burst": "tokens_per_minute"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TenantError(ValueError):
    """A table is invalid; `problems` has a line for each mistake, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# --- kinds of values ---


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected a name of at most 64 letters, digits, dots, dashes and underscores")
    return value


def _digest(value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError(
            "expected the SHA-256 of a key, 64 hex digits, not the key itself; "
            "`flowserver tenants key` prints a new key and its hash"
        )
    return bytes.fromhex(value)


def _moment(value: Any) -> float:
    """A TOML time, or text in its format, as seconds since the epoch."""
    expected = "expected a time with a zone such as '2027-01-01T00:00:00Z'"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(expected) from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(expected)
    try:
        return value.timestamp()
    except (OverflowError, ValueError):
        raise ValueError(expected) from None


def _paths(value: Any) -> tuple[str, ...]:
    patterns: tuple[str, ...] = PATTERNS.parse(value)
    for pattern in patterns:
        if problem := check_path(pattern):
            raise ValueError(problem)
    return patterns


def _class(value: Any) -> TrafficClass:
    try:
        return parse_class(TEXT.parse(value))
    except ValueError as error:
        raise ValueError(f"{error}{suggestion(value, TrafficClass)}") from None


def check_path(pattern: str) -> str | None:
    """What is wrong with a path pattern; None: nothing."""
    if pattern.startswith(("/", "*", "?", "[")):
        return None
    return f"{pattern!r} matches no path, as paths begin with a slash; did you mean {'/' + pattern!r}?"


# --- keys ---

CLASS = Kind("`interactive` or `batch`", _class, {"enum": [*TrafficClass]})

_LIMIT = whole_number(1, MOST, "; without the key there is no limit")
_USD = decimal_number(9, MOST_USD, "an amount in dollars such as 12.5; without the key there is no limit", least=1)
_WEIGHT = whole_number(1, 1000)
_DIGEST = Kind("64 hex digits", _digest, {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"})
_MOMENT = Kind("time of day", _moment, {"type": "string", "format": "date-time"})

LIMIT_KEYS = (
    Key("requests_per_minute", _LIMIT, "Requests per minute, refilled evenly."),
    Key("request_burst", _LIMIT, "Most requests in a burst; by default as many as per minute."),
    Key("tokens_per_minute", _LIMIT, "Input and output tokens per minute, refilled evenly."),
    Key("token_burst", _LIMIT, "Most tokens in a burst; by default as many as per minute."),
    Key("concurrent", _LIMIT, "Most concurrent requests."),
    Key("tokens_per_stream", _LIMIT, "Most output tokens of one answer."),
    Key("tokens_per_session", _LIMIT, "Most tokens of one session within a day of its first request."),
    Key("tokens_per_day", _LIMIT, "Most tokens until the next midnight, UTC."),
    Key("tokens_per_month", _LIMIT, "Most tokens until the first of the next month, UTC."),
    Key("usd_per_session", _USD, "Most dollars, by the prices, of one session within a day of its first request."),
    Key("usd_per_day", _USD, "Most dollars, by the prices, until the next midnight, UTC."),
    Key("usd_per_month", _USD, "Most dollars, by the prices, until the first of the next month, UTC."),
)
MODEL_LIMIT_KEYS = (
    Key("models", SOME_PATTERNS, "Models that share these limits.", required=True),
    *LIMIT_KEYS,
)
_KEY_KEYS = (
    Key("sha256", _DIGEST, "SHA-256 of the key.", required=True, secret=True),
    Key("expires", _MOMENT, "When it expires, such as `2027-01-01T00:00:00Z`."),
)
TENANT_KEYS = (
    Key(
        "name",
        Kind("name", _name, {"type": "string", "pattern": f"^{_NAME.pattern}$"}),
        "Name in log and metrics.",
        required=True,
    ),
    Key("key_sha256", _DIGEST, "SHA-256 of its only key; `flowserver tenants key` prints a new one.", secret=True),
    Key(
        "keys",
        tables_of_keys(_KEY_KEYS),
        "Several keys, each with `sha256` and, optionally, the time at which it `expires`.",
        secret=True,
    ),
    Key("disabled", FLAG, "true: its requests are refused."),
    Key("models", PATTERNS, "Models that it may use; all by default."),
    Key(
        "paths",
        Kind("list of patterns", _paths, PATTERNS.schema),
        "Paths that it may use; by default those whose tokens are counted, and the list of models.",
    ),
    Key("user", table_of_keys(LIMIT_KEYS), "Limits of each of its users; the same keys as below."),
    Key(
        "model_limits",
        tables_of_keys(MODEL_LIMIT_KEYS),
        "Limits of `models`, a list of patterns, together; the same keys as below.",
    ),
    Key("class", CLASS, "The highest class of its requests: `interactive` (default) or `batch`."),
    Key("weight", _WEIGHT, "Its share of a provider's places, relative to other waiting tenants; 1 by default."),
    *LIMIT_KEYS,
)
_STORED_TENANT_KEYS = tuple(Key(key.name, PATTERNS, key.doc) if key.name == "paths" else key for key in TENANT_KEYS)
LIMITS = tuple(key.name for key in LIMIT_KEYS)
USD_LIMITS = frozenset(key.name for key in LIMIT_KEYS if key.kind is _USD)
"""The limits in money."""


# --- reading and writing ---


def read_tenant(table: dict[str, Any], place: str, *, stored: bool = False) -> Tenant:
    """The tenant of a table at `place`, such as `tenants[0]`. Raises `TenantError` with every mistake.

    `stored`: it was accepted before, so patterns that can't match any path are accepted."""
    reader = _TenantReader()
    tenant = reader.tenant(table, place, _STORED_TENANT_KEYS if stored else TENANT_KEYS)
    if reader.problems:
        raise TenantError(reader.problems)
    return tenant


def read_tenants(tables: list[dict[str, Any]]) -> tuple[Tenant, ...]:
    """The tenants of all `[[tenants]]` tables. Raises `TenantError`, also if a name or key is used twice."""
    tenants, problems = [], []
    for number, table in enumerate(tables):
        try:
            tenants.append(read_tenant(table, f"tenants[{number}]"))
        except TenantError as error:
            problems += error.problems
    for name in repeated([tenant.name for tenant in tenants]):
        problems.append(f"tenants: the name {name!r} is used more than once")
    for digest in repeated([key.sha256.hex() for tenant in tenants for key in tenant.keys]):
        problems.append(f"tenants: the key with the hash {digest[:8]}... is used more than once")
    if problems:
        raise TenantError(problems)
    return tuple(tenants)


def table_of(tenant: Tenant) -> dict[str, Any]:
    """The table that `read_tenant` reads, without empty values."""
    table: dict[str, Any] = {
        "name": tenant.name,
        "keys": [_key_table(key) for key in tenant.keys],
        "disabled": tenant.disabled,
        "models": list(tenant.models),
        "paths": list(tenant.paths),
        "user": limits_table(tenant.user),
        "model_limits": [{"models": list(each.models), **limits_table(each.limits)} for each in tenant.model_limits],
        "class": tenant.traffic_class.value if tenant.traffic_class is not INTERACTIVE else "",
        "weight": tenant.weight if tenant.weight != 1 else 0,
        **limits_table(tenant.limits),
    }
    return {name: value for name, value in table.items() if value}


def limits_table(limits: TenantLimits) -> dict[str, int | str]:
    """The limits that are set, as in a file; amounts of money are text, which is exact."""
    found = ((name, value) for name, value in asdict(limits).items() if value is not None)
    return {name: usd_text(value) if name in USD_LIMITS else value for name, value in found}


def money_limits(tenant: Tenant) -> list[str]:
    """The names of the tenant's limits in money, including those of users and models."""
    each = [tenant.limits, tenant.user, *(kind.limits for kind in tenant.model_limits)]
    return sorted({name for limits in each for name in limits_table(limits)} & USD_LIMITS)


def moment_text(seconds: float) -> str:
    """Seconds since the epoch as `2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _key_table(key: TenantKey) -> dict[str, str]:
    table = {"sha256": key.sha256.hex()}
    return table if key.expires_at is None else {**table, "expires": moment_text(key.expires_at)}


class _TenantReader(TableReader):
    """Reads the tables of tenants."""

    def tenant(self, table: dict[str, Any], place: str, keys: Sequence[Key]) -> Tenant:
        """The tenant of `table`, without invalid parts."""
        values = self.read(table, place, keys)
        digests = [TenantKey(values["key_sha256"])] if "key_sha256" in values else []
        return Tenant(
            name=values.get("name", ""),
            keys=(*digests, *self._keys(values.get("keys", []), f"{place}.keys")),
            disabled=values.get("disabled", False),
            models=values.get("models", ()),
            paths=values.get("paths", ()),
            limits=self._limits(values, table, place),
            user=self._user(values.get("user", {}), f"{place}.user"),
            model_limits=self._model_limits(values.get("model_limits", []), f"{place}.model_limits"),
            traffic_class=values.get("class", INTERACTIVE),
            weight=values.get("weight", 1),
        )

    def _keys(self, tables: list[dict[str, Any]], place: str) -> list[TenantKey]:
        found = (self.read(table, f"{place}[{number}]", _KEY_KEYS) for number, table in enumerate(tables))
        return [TenantKey(values.get("sha256", b""), values.get("expires")) for values in found]

    def _user(self, table: dict[str, Any], place: str) -> TenantLimits:
        return self._limits(self.read(table, place, LIMIT_KEYS), table, place)

    def _model_limits(self, tables: list[dict[str, Any]], place: str) -> tuple[ModelLimits, ...]:
        found: list[ModelLimits] = []
        for number, table in enumerate(tables):
            where = f"{place}[{number}]"
            values = self.read(table, where, MODEL_LIMIT_KEYS)
            models = values.get("models", ())
            if models and any(models == other.models for other in found):
                self.problems.append(f"{where}.models: there are already limits for exactly these models")
            found.append(ModelLimits(models, self._limits(values, table, where)))
        return tuple(found)

    def _limits(self, values: dict[str, Any], table: dict[str, Any], place: str) -> TenantLimits:
        for burst, rate in _BURSTS.items():
            if burst in table and rate not in table:
                self.problems.append(f"{place}.{burst}: needs {rate}")
        return TenantLimits(**{name: values.get(name) for name in LIMITS})
