"""Configuration files with providers and tenants."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path


def toml(folder: Path, upstreams: Mapping[str, Mapping[str, object] | str], routes: str = "", *, top: str = "") -> str:
    """The path of a new FLOW_CONFIG file; each upstream is its URL, or a table. `routes` is TOML, and so is `top`, for
    above the first table."""
    lines = [top]
    for name, given in upstreams.items():
        table = {"url": given} if isinstance(given, str) else given
        lines += [
            "[[upstreams]]",
            f'name = "{name}"',
            *(f"{key} = {_value(value)}" for key, value in table.items()),
            "",
        ]
    path = folder / "flow.toml"
    path.write_text("\n".join([*lines, routes]))
    return str(path)


def tenant(key: str, *lines: str, name: str = "acme") -> str:
    """The table of a tenant that has `key`, with more `lines` of TOML."""
    digest = sha256(key.encode()).hexdigest()
    return "\n".join(["[[tenants]]", f'name = "{name}"', f'key_sha256 = "{digest}"', *lines, ""])


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{key}" = {_value(inner)}' for key, inner in value.items()) + " }"
    return str(value) if isinstance(value, int | float) else f'"{value}"'
