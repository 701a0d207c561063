"""A tenant as a table: of the TOML file, and of the JSON that a directory keeps. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from ..quota.tenants import ModelLimits, Tenant, TenantKey, TenantLimits

MOST = 75_000_000_000
"""Of any limit: a bucket of it is still counted exactly."""

LIMITS = tuple(field.name for field in fields(TenantLimits))
_KNOWN = ("name", "keys", "key_sha256", "disabled", "models", "paths", "user", "model_limits", *LIMITS)
_BURSTS = {"request_burst": "requests_per_minute", "token_burst": "tokens_per_minute"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TenantError(ValueError):
    """A table is wrong; `problems` has a line for each mistake, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_tenant(table: dict[str, Any], place: str, *, stored: bool = False) -> Tenant:
    """The tenant of a table that stands at `place`, such as `tenants[0]`. Raises `TenantError` with every mistake.

    `stored`: it was accepted once; patterns that fit nothing are left as they are."""
    reader = _Reader(_patterns if stored else _paths)
    tenant = reader.tenant(table, place)
    if reader.problems:
        raise TenantError(reader.problems)
    return tenant


def read_tenants(tables: list[dict[str, Any]]) -> tuple[Tenant, ...]:
    """Those of all `[[tenants]]`. Raises `TenantError`; no name and no key may be there twice."""
    tenants, problems = [], []
    for number, table in enumerate(tables):
        try:
            tenants.append(read_tenant(table, f"tenants[{number}]"))
        except TenantError as error:
            problems += error.problems
    for name in _repeated([tenant.name for tenant in tenants]):
        problems.append(f"tenants: the name {name!r} is there more than once")
    for digest in _repeated([key.sha256.hex() for tenant in tenants for key in tenant.keys]):
        problems.append(f"tenants: the key with the hash {digest[:8]}... is there more than once")
    if problems:
        raise TenantError(problems)
    return tuple(tenants)


def table_of(tenant: Tenant) -> dict[str, Any]:
    """What `read_tenant` reads; nothing is written that says nothing."""
    table: dict[str, Any] = {
        "name": tenant.name,
        "keys": [_key_table(key) for key in tenant.keys],
        "disabled": tenant.disabled,
        "models": list(tenant.models),
        "paths": list(tenant.paths),
        "user": limits_table(tenant.user),
        "model_limits": [{"models": list(each.models), **limits_table(each.limits)} for each in tenant.model_limits],
        **limits_table(tenant.limits),
    }
    return {name: value for name, value in table.items() if value}


def limits_table(limits: TenantLimits) -> dict[str, int]:
    return {name: value for name, value in asdict(limits).items() if value is not None}


def moment_text(seconds: float) -> str:
    """Seconds since the epoch as `2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _key_table(key: TenantKey) -> dict[str, str]:
    table = {"sha256": key.sha256.hex()}
    return table if key.expires_at is None else {**table, "expires": moment_text(key.expires_at)}


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, read_paths: Callable[[Any], tuple[str, ...]]) -> None:
        self._read_paths = read_paths
        self.problems: list[str] = []

    def tenant(self, table: dict[str, Any], place: str) -> Tenant:
        self._only(table, place, _KNOWN)
        if "name" not in table:
            self.problems.append(f"{place}.name: is missing")
        return Tenant(
            name=self._value(table, place, "name", _name, ""),
            keys=self._keys(table, place),
            disabled=self._value(table, place, "disabled", _flag, False),
            models=self._value(table, place, "models", _patterns, ()),
            paths=self._value(table, place, "paths", self._read_paths, ()),
            limits=self._limits(table, place),
            user=self._user(table, place),
            model_limits=self._model_limits(table, place),
        )

    def _keys(self, table: dict[str, Any], place: str) -> tuple[TenantKey, ...]:
        keys = []
        if "key_sha256" in table:
            keys.append(TenantKey(self._value(table, place, "key_sha256", _digest, b"")))
        for number, each in enumerate(self._value(table, place, "keys", _tables, [])):
            where = f"{place}.keys[{number}]"
            self._only(each, where, ("sha256", "expires"))
            if "sha256" not in each:
                self.problems.append(f"{where}.sha256: is missing")
            digest = self._value(each, where, "sha256", _digest, b"")
            keys.append(TenantKey(digest, self._value(each, where, "expires", _moment, None)))
        return tuple(keys)

    def _user(self, table: dict[str, Any], place: str) -> TenantLimits:
        user = self._value(table, place, "user", _table, {})
        self._only(user, f"{place}.user", LIMITS)
        return self._limits(user, f"{place}.user")

    def _model_limits(self, table: dict[str, Any], place: str) -> tuple[ModelLimits, ...]:
        found: list[ModelLimits] = []
        for number, each in enumerate(self._value(table, place, "model_limits", _tables, [])):
            where = f"{place}.model_limits[{number}]"
            self._only(each, where, ("models", *LIMITS))
            models = self._value(each, where, "models", _patterns, ())
            if not each.get("models"):
                self.problems.append(f"{where}.models: expected a list of patterns such as ['gpt-*']")
            elif any(models == other.models for other in found):
                self.problems.append(f"{where}.models: there are limits for just these already")
            found.append(ModelLimits(models, self._limits(each, where)))
        return tuple(found)

    def _limits(self, table: dict[str, Any], place: str) -> TenantLimits:
        for burst, rate in _BURSTS.items():
            if burst in table and rate not in table:
                self.problems.append(f"{place}.{burst}: goes with {rate} only")
        return TenantLimits(**{name: self._value(table, place, name, _limit, None) for name in LIMITS})

    def _value(self, table: dict[str, Any], place: str, name: str, read: Callable[[Any], Any], default: Any) -> Any:
        """`default` when it is not there, or wrong, which is then a problem."""
        if name not in table:
            return default
        try:
            return read(table[name])
        except ValueError as error:
            self.problems.append(f"{place}.{name}: {error}")
            return default

    def _only(self, table: dict[str, Any], place: str, known: tuple[str, ...]) -> None:
        for name in table:
            if name not in known:
                self.problems.append(f"{place}.{name}: is not known; there is {', '.join(known)}")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected a name of at most 64 letters, digits, dots, dashes and underscores")
    return value


def _digest(value: Any) -> bytes:
    """The value is never shown: it may be the key itself."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError(
            "expected the SHA-256 of a key, 64 hex digits, not the key itself; "
            "`flowserver tenants key` prints a new key and its hash"
        )
    return bytes.fromhex(value)


def _moment(value: Any) -> float:
    """A time of TOML, or such a text, in seconds since the epoch."""
    expected = "expected a time with its zone such as '2027-01-01T00:00:00Z'"
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


def _limit(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ValueError(f"expected a whole number from 1 to {MOST}; without it there is no limit")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(pattern, str) and pattern for pattern in value):
        raise ValueError("expected a list of patterns such as ['gpt-*']")
    return tuple(value)


def _paths(value: Any) -> tuple[str, ...]:
    patterns = _patterns(value)
    for pattern in patterns:
        if problem := check_path(pattern):
            raise ValueError(problem)
    return patterns


def check_path(pattern: str) -> str | None:
    """What is wrong with a pattern of paths; None: nothing. One that begins otherwise fits no path at all."""
    if pattern.startswith(("/", "*", "?", "[")):
        return None
    return f"{pattern!r} fits no path, as each begins with a slash; did you mean {'/' + pattern!r}?"


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a table such as { tokens_per_day = 100000 }")
    return value


def _tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError("expected a list of tables")
    return value
