"""What a reload has changed: two topologies, compared. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..quota.prices import PriceRow
from ..quota.tenants import Tenant
from .file_keys import UPSTREAM_KEYS
from .prices import price_table
from .tenants import table_of
from .topology import RouteSpec, Topology, UpstreamSpec

_MOST = 50
"""Most differences that are listed; further ones are only counted."""
_SECRET = frozenset(key.name for key in UPSTREAM_KEYS if key.secret)
_OWN = frozenset(("place", "name"))


def differences(before: Topology, after: Topology) -> list[str]:
    """A line for each difference, such as `upstreams.azure.weight: 1 -> 2`; for a secret only that it has changed."""
    found = [
        *_of_tables("upstreams", _upstreams(before), _upstreams(after)),
        *_of_tables("routes", _routes(before), _routes(after)),
        *_of_tables("tenants", _tenants(before.tenants), _tenants(after.tenants)),
        *_of_tables("prices", _prices(before.prices), _prices(after.prices)),
    ]
    if before.open != after.open:
        found.append(f"open: {_shown(before.open)} -> {_shown(after.open)}")
    return found if len(found) <= _MOST else [*found[:_MOST], f"and {len(found) - _MOST} more"]


_Tables = Mapping[str, Mapping[str, Any]]


def _upstreams(topology: Topology) -> _Tables:
    return {spec.name: _values(spec) for spec in topology.upstreams}


def _routes(topology: Topology) -> _Tables:
    """Routes by their position, which matters."""
    return {str(number): _values(spec) for number, spec in enumerate(topology.routes)}


def _tenants(tenants: Iterable[Tenant]) -> _Tables:
    return {tenant.name: table_of(tenant) for tenant in tenants}


def _prices(rows: Iterable[PriceRow]) -> _Tables:
    """Prices by models and providers; of several tables for the same, the first holds."""
    tables: dict[str, dict[str, Any]] = {}
    for row in rows:
        above = f" above {row.above}" if row.above else ""
        tables.setdefault(" ".join([*row.models, *row.upstreams]) + above, price_table(row.price))
    return tables


def _values(spec: UpstreamSpec | RouteSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in _OWN}


def _of_tables(kind: str, before: _Tables, after: _Tables) -> Iterator[str]:
    for name in before.keys() - after.keys():
        yield f"{kind}.{name}: removed"
    for name, table in after.items():
        if name not in before:
            yield f"{kind}.{name}: added"
            continue
        former = before[name]
        for key in dict.fromkeys((*former, *table)):
            if former.get(key) != table.get(key):
                yield f"{kind}.{name}.{key}: {_change(key, former.get(key), table.get(key))}"


def _change(key: str, before: Any, after: Any) -> str:
    if key in _SECRET or key == "keys":
        return "changed"
    return f"{_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    """A value as a message shows it: short, and without its type."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
