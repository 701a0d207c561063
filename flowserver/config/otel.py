"""Lists of names and values in the syntax of OpenTelemetry's variables: `name=value,name=value`, percent-encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?|")
_OWN_FIELDS = frozenset(("host", "content-length", "content-type", "transfer-encoding", "connection"))


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    """Fields of HTTP requests, their names in lower case. Raises ValueError, which shows no value."""
    headers = []
    for name, value in _members(text, "authorization=Bearer%20KEY,x-scope-orgid=1"):
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"the field {name[:60]!r} has a name or value that HTTP can't carry")
        if name.lower() in _OWN_FIELDS:
            raise ValueError(f"the field {name!r} is set by the relay; remove it")
        headers.append((name.lower(), value))
    return tuple(headers)


def resource_attributes(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The attributes from OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME; the latter takes precedence. Raises
    ValueError with the whole message."""
    text = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        attributes = dict(_members(text, "deployment.environment.name=prod,service.namespace=llm"))
    except ValueError as error:
        raise ValueError(f"OTEL_RESOURCE_ATTRIBUTES: {error}") from None
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        attributes["service.name"] = name
    return tuple(attributes.items())


def _members(text: str, example: str) -> Iterator[tuple[str, str]]:
    for member in text.split(","):
        if not member.strip():
            continue
        name, equals, value = member.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f"expected names and values such as {example}")
        try:
            yield name, unquote(value.strip(), errors="strict")
        except UnicodeDecodeError:
            raise ValueError(f"the value of {name[:60]!r} is not percent-encoded UTF-8") from None
