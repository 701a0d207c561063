"""The configuration in force, and the origin of each value. Secrets are masked. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from .access_log import AccessLog
from .addresses import Address, Networks, Url
from .entries import Key
from .file_keys import ROUTE_KEYS, UPSTREAM_KEYS
from .prices import price_row_table
from .settings import SETTINGS, Config
from .tenants import table_of
from .topology import Topology

MASK = "***"
DEFAULT, ENVIRONMENT, RUNTIME = "default", "environment", "changed at run time"
_ALONE = "FLOW_UPSTREAM"
_FIELDS = {"class": "traffic_class", "upstreams": "tiers"}
"""Keys of routes whose fields in `RouteSpec` have other names."""

Value = dict[str, Any]
"""`value`: sizes in bytes, times in seconds; null: off, none or the kernel's default. `origin`: where it comes from."""


def effective(
    config: Config, topology: Topology, environ: Mapping[str, str], changed: Collection[str] = ()
) -> dict[str, Any]:
    """All settings by name, and the file's tables with a value for each key. `changed`: the fields of `config` that
    have changed since the start."""
    settings = {entry.env: _setting(config, entry.field, environ, changed) for entry in SETTINGS}
    file = config.config
    routes = [
        {
            key.name: _value(
                getattr(spec, _FIELDS.get(key.name, key.name)),
                _origin(key, f"{file}: ", f"routes[{number}]", topology, settings),
                secret=key.secret,
            )
            for key in ROUTE_KEYS
        }
        for number, spec in enumerate(topology.routes)
    ]
    tenants = [
        {name: _value(value, f"{file}: tenants[{number}]") for name, value in _masked_keys(table_of(tenant)).items()}
        for number, tenant in enumerate(topology.tenants)
    ]
    return {
        "settings": settings,
        "file": file,
        "open": topology.open,
        "upstreams": [_upstream(spec, topology, settings) for spec in topology.upstreams],
        "routes": routes,
        "tenants": tenants,
        "prices": [_value(price_row_table(row), f"{file} or its prices_file") for row in topology.prices],
    }


def _setting(config: Config, name: str, environ: Mapping[str, str], changed: Collection[str]) -> Value:
    entry = next(each for each in SETTINGS if each.field == name)
    reference = dict(config.references).get(name)
    origin = RUNTIME if name in changed else ENVIRONMENT if entry.env in environ else DEFAULT
    if reference is not None:  # shows where the secret is kept, not the secret
        return {"value": reference, "origin": origin}
    return _value(getattr(config, name), origin, secret=entry.secret)


def _upstream(spec: Any, topology: Topology, settings: Mapping[str, Value]) -> dict[str, Value]:
    path, colon, place = spec.place.rpartition(": ")
    return {
        key.name: _value(
            getattr(spec, key.name),
            _origin(key, path + colon, place, topology, settings),
            secret=key.secret,
        )
        for key in UPSTREAM_KEYS
    }


def _origin(key: Key, file: str, place: str, topology: Topology, settings: Mapping[str, Value]) -> str:
    """The origin of the value of `key` in the table at `place`."""
    if f"{place}.{key.name}" in topology.given:
        return f"{file}{place}.{key.name}"
    if key.inherits:
        name = f"FLOW_{key.inherits.upper()}"
    elif place != _ALONE:
        return DEFAULT
    else:
        name = _ALONE if key.name in ("name", "url") else f"{_ALONE}_{key.name.upper()}"
    return f"{name} ({settings[name]['origin']})" if name in settings else DEFAULT


def _value(value: Any, origin: str, *, secret: bool = False) -> Value:
    return {"value": MASK if secret and value else plain(value), "origin": origin}


def _masked_keys(table: dict[str, Any]) -> dict[str, Any]:
    keys = [{**key, "sha256": MASK} for key in table.get("keys", ())]
    return {**table, "keys": keys}


def plain(value: Any) -> Any:
    """A value as JSON."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Address | Url | Networks):
        return str(value)
    if isinstance(value, AccessLog):
        return f"sample:{value.share:g}" if value.share else value.logged.value
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return [plain(each) for each in value]
