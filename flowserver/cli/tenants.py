"""`flowserver tenants`: manages tenants in Redis, and creates keys for those in the file."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from ..config.environment import load
from ..config.errors import ConfigError
from ..config.parsers import parse_time
from ..config.tenants import LIMITS, TenantError, limits_table, moment_text, read_tenant, table_of
from ..quota.limits import MoneyQuota, StoreUnavailable, Usage
from ..quota.money import usd_text
from ..quota.tenants import Tenant, TenantKey, digest_of, shared_limits, user_limits
from ..stores.directory import Directory
from ..stores.redis_store import RedisStore
from .exit_status import FAILURE, complain, refused
from .rows import print_rows
from .usage import Parser

REDIS_TIMEOUT = 5000.0
"""Milliseconds. Longer than the relay's own, since a person is waiting, not a request."""


class Failure(Exception):
    """A command failed; the text says why."""


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns the exit status: 0 for success, 2 for wrong usage, and see `exit_status`."""
    options = parser().read(argv)
    try:
        if options.command == "key":
            _print_key()
        else:
            asyncio.run(_run(options))
    except ConfigError as error:
        return refused(error)
    except TenantError as error:
        complain(error.problems)
        return FAILURE
    except (Failure, StoreUnavailable) as error:
        complain([str(error)])
        return FAILURE
    return 0


def parser() -> Parser:
    parser = Parser(
        prog="flowserver tenants",
        description="Manages the tenants in the Redis of FLOW_REDIS_URL: who may use the relay, and how much.",
        epilog=f"Limits are {', '.join(LIMITS)}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("key", help="print a new key and its hash for the file; needs no Redis")
    commands.add_parser("list", help="list all tenants")
    add = _named(commands, "add", "add a tenant; prints its key once")
    _add_options(add)
    add.add_argument("--expires", metavar="TIME", help="when its key expires, such as 2027-01-01T00:00:00Z")
    _add_options(_named(commands, "set", "change its limits, models or paths"))
    _named(commands, "show", "show one tenant")
    rotate = _named(commands, "rotate", "replace its keys with a new one")
    rotate.add_argument(
        "--grace", type=_time, default=0.0, metavar="TIME", help="how long the old keys remain valid, such as 1h"
    )
    _named(commands, "disable", "refuse its requests")
    _named(commands, "enable", "accept its requests again")
    _named(commands, "remove", "remove it and its keys")
    usage = _named(commands, "usage", "show how much of its limits is in use")
    usage.add_argument("--user", help="for one of its users")
    return parser


def _named(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about)
    parser.add_argument("name", metavar="NAME")
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    for option, shape, about in (
        ("--limit", "LIMIT=NUMBER", "for all its requests together; `off` removes it"),
        ("--user-limit", "LIMIT=NUMBER", "for each of its users"),
        ("--model-limit", "MODELS:LIMIT=NUMBER", "for all models that match a pattern, or several separated by commas"),
        ("--model", "PATTERN", "models that it may use; '' for all"),
        ("--path", "PATTERN", "paths that it may use; '' for the default"),
    ):
        parser.add_argument(option, action="append", metavar=shape, help=about)


def _time(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- commands ---


async def _run(options: argparse.Namespace) -> None:
    config = load(os.environ)
    if config.redis_url is None:
        raise Failure("FLOW_REDIS_URL: not set; this command manages tenants in Redis, not those of FLOW_CONFIG")
    if options.command == "usage":
        await _usage(config.redis_url, config.lease_time, options)
        return
    directory = _directory(config.redis_url)
    try:
        await _COMMANDS[options.command](directory, options)
    finally:
        await directory.close()


async def _add(directory: Directory, options: argparse.Namespace) -> None:
    key, entry = _new_key()
    table = _edited({"name": options.name, "keys": [entry]}, options)
    if options.expires is not None:
        entry["expires"] = options.expires
    if not await directory.add(read_tenant(table, options.name)):
        raise Failure(f"tenant {options.name!r} already exists")
    _print_once(key)


async def _set(directory: Directory, options: argparse.Namespace) -> None:
    def change(tenant: Tenant) -> Tenant:
        return read_tenant(_edited(table_of(tenant), options), options.name)

    _print_tenant(await _changed(directory, options.name, change))


async def _list(directory: Directory, options: argparse.Namespace) -> None:
    found = [await directory.get(name) for name in await directory.names()]
    rows = [(tenant.name, _state(tenant), str(len(tenant.keys)), _limits(tenant)) for tenant in found if tenant]
    print_rows([("tenant", "state", "keys", "limits"), *rows])


async def _show(directory: Directory, options: argparse.Namespace) -> None:
    _print_tenant(await _get(directory, options.name))


async def _rotate(directory: Directory, options: argparse.Namespace) -> None:
    key, _ = _new_key()
    now = time.time()

    def change(tenant: Tenant) -> Tenant:
        return rotated(tenant, digest_of(key.encode()), now=now, grace=options.grace)

    await _changed(directory, options.name, change)
    _print_once(key)


async def _disable(directory: Directory, options: argparse.Namespace) -> None:
    await _changed(directory, options.name, lambda tenant: replace(tenant, disabled=True))


async def _enable(directory: Directory, options: argparse.Namespace) -> None:
    await _changed(directory, options.name, lambda tenant: replace(tenant, disabled=False))


async def _remove(directory: Directory, options: argparse.Namespace) -> None:
    if not await directory.remove(options.name):
        raise _missing(options.name)


async def _usage(url: str, lease_time: float, options: argparse.Namespace) -> None:
    directory = _directory(url)
    try:
        tenant = await _get(directory, options.name)
    finally:
        await directory.close()
    now = time.time()
    limits = shared_limits(tenant, now) if options.user is None else user_limits(tenant, options.user, now)
    if not limits:
        raise Failure(f"{options.name} has no limits" + ("" if options.user is None else " for a user"))
    store = RedisStore(url, deadline=REDIS_TIMEOUT, ttl=lease_time)
    try:
        found = await store.usage(limits)
    finally:
        await store.close()
    print_rows([("limit", "used", "reserved", "of", "resets in"), *map(_usage_row, found)])


_COMMANDS: dict[str, Callable[[Directory, argparse.Namespace], Awaitable[None]]] = {
    "add": _add,
    "set": _set,
    "list": _list,
    "show": _show,
    "rotate": _rotate,
    "disable": _disable,
    "enable": _enable,
    "remove": _remove,
}


# --- helpers ---


def rotated(tenant: Tenant, digest: bytes, *, now: float, grace: float) -> Tenant:
    """`tenant` with a new key. The others remain valid for `grace` seconds, or until they expire if that is sooner."""
    until = now + grace
    old = (replace(key, expires_at=min(until, key.expires_at or until)) for key in tenant.keys)
    kept = [key for key in old if key.expires_at is not None and key.expires_at > now]
    return replace(tenant, keys=(TenantKey(digest), *kept))


def _directory(url: str) -> Directory:
    return Directory(url, deadline=REDIS_TIMEOUT)


async def _get(directory: Directory, name: str) -> Tenant:
    tenant = await directory.get(name)
    if tenant is None:
        raise _missing(name)
    return tenant


async def _changed(directory: Directory, name: str, change: Callable[[Tenant], Tenant]) -> Tenant:
    tenant = await directory.change(name, change)
    if tenant is None:
        raise _missing(name)
    return tenant


def _missing(name: str) -> Failure:
    return Failure(f"there is no tenant {name!r} in Redis; `flowserver tenants list` lists all")


def _edited(table: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """`table`, changed as the options say; `read_tenant` checks the values."""
    for text in options.limit or ():
        _set_limit(table, text)
    for text in options.user_limit or ():
        _set_limit(table.setdefault("user", {}), text)
    for text in options.model_limit or ():
        models, _, limit = text.rpartition(":")
        _set_limit(_model_table(table, [pattern for pattern in models.split(",") if pattern]), limit)
    for name, patterns in (("models", options.model), ("paths", options.path)):
        if patterns is not None:
            table[name] = [pattern for pattern in patterns if pattern]
    return table


def _model_table(table: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """The table of limits for exactly these models, created if necessary."""
    tables: list[dict[str, Any]] = table.setdefault("model_limits", [])
    for each in tables:
        if each["models"] == models:
            return each
    tables.append({"models": models})
    return tables[-1]


def _set_limit(table: dict[str, Any], text: str) -> None:
    name, _, value = text.partition("=")
    if name not in LIMITS:
        raise Failure(f"invalid value {text!r}: expected LIMIT=NUMBER with one of {', '.join(LIMITS)}")
    if value == "off":
        table.pop(name, None)
    else:
        table[name] = int(value) if value.isdecimal() and len(value) < 20 else value


def _new_key() -> tuple[str, dict[str, str]]:
    """Make a new key and its entry in a tenant's table. A key is 256 random bits, so its hash needs no salt."""
    key = f"flow-{secrets.token_urlsafe(32)}"
    return key, {"sha256": digest_of(key.encode()).hex()}


# --- output ---


def _print_key() -> None:
    key, entry = _new_key()
    print(f"key     {key}\nsha256  {entry['sha256']}")


def _print_once(key: str) -> None:
    """Only the key goes to standard output, so that it can be piped."""
    print("flowserver: the new key; it is not stored and will not be shown again:", file=sys.stderr)
    print(key)


def _print_tenant(tenant: Tenant) -> None:
    rows = [("tenant", tenant.name), ("state", _state(tenant))]
    for key in tenant.keys:
        until = "" if key.expires_at is None else f" until {moment_text(key.expires_at)}"
        rows.append(("key", f"sha256 {key.sha256.hex()[:16]}...{until}"))
    rows += [("models", ", ".join(tenant.models) or "all"), ("paths", ", ".join(tenant.paths) or "all")]
    rows += [("limits", _limits(tenant)), ("each user", _pairs(limits_table(tenant.user)))]
    rows += [(", ".join(each.models), _pairs(limits_table(each.limits))) for each in tenant.model_limits]
    print_rows(rows)


def _state(tenant: Tenant) -> str:
    return "disabled" if tenant.disabled else "active"


def _limits(tenant: Tenant) -> str:
    return _pairs(limits_table(tenant.limits))


def _pairs(table: dict[str, int | str]) -> str:
    return " ".join(f"{name}={value}" for name, value in table.items()) or "none"


def _usage_row(usage: Usage) -> tuple[str, ...]:
    name = usage.limit.key.partition("}:")[2]
    reset = "" if usage.reset is None else _span(usage.reset)
    shown = usd_text if isinstance(usage.limit, MoneyQuota) else str
    return name, shown(usage.used), shown(usage.reserved), shown(usage.limit.limit), reset


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"
