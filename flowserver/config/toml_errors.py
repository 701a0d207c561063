"""Explains syntax errors in TOML, and how to fix them. No I/O."""

from __future__ import annotations

import re
from tomllib import TOMLDecodeError

from .file_keys import FILE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, ROUTE_KEYS, UPSTREAM_KEYS
from .prices import PRICE_KEYS
from .tenants import TENANT_KEYS

_TABLES = (FILE_KEYS, UPSTREAM_KEYS, ROUTE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, TENANT_KEYS, PRICE_KEYS)
_KNOWN = {key.name: not key.secret for keys in _TABLES for key in keys}
"""Names of keys, and whether their values may be shown."""
_PLACE = re.compile(r"^(.*?) \(at line (\d+), column (\d+)\)$", re.DOTALL)
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=\s*(.*)")


def described(error: TOMLDecodeError, text: str) -> str:
    """The message for `error` in `text`: its position, the line without secrets, and a remedy."""
    match = _PLACE.match(str(error))
    if match is None:
        remedy = _remedy(str(error), "") or "is a bracket, brace or quote not closed?"
        return f"{error}; {remedy}"
    reason, number, column = match[1], int(match[2]), match[3]
    line = text.split("\n")[number - 1].rstrip() if number <= text.count("\n") + 1 else ""
    shown = f": {_shown(line)}" if line.strip() else ""
    remedy = _remedy(reason, line)
    return f"line {number}, column {column}: {reason}{shown}" + (f"; {remedy}" if remedy else "")


def _shown(line: str) -> str:
    """`line`, without possible secrets."""
    match = _KEY.match(line)
    if match is None:
        return line.strip()[:80] if line.lstrip().startswith("[") else "..."
    may_show = _KNOWN.get(match[1], False) and "@" not in line
    return line.strip()[:80] if may_show else f"{match[1]} = ..."


def _remedy(reason: str, line: str) -> str:
    match = _KEY.match(line)
    value = match[2] if match else ""
    if re.search("[\u201c\u201d\u2018\u2019]", line):
        return 'write straight quotes, as in "text"'
    if re.match(r"(true|false|yes|no|on|off)\b", value, re.IGNORECASE):
        return "a switch is true or false, in lower case and without quotes"
    if "Invalid value" in reason and value[:1] not in ('"', "'", "[", "{"):
        return 'text needs quotes, as in key = "text"'
    if "overwrite" in reason or "Cannot declare" in reason:
        return "it occurs twice: remove one, or start another table with [[...]]"
    if "Expected '=' after a key" in reason:
        return 'write key = "value"'
    if "Unterminated string" in reason or "Illegal character" in reason:
        return "the quotes are not closed on this line"
    if "Unescaped" in reason:
        return "write \\\\ for a backslash, or use single quotes"
    return ""
