"""From the environment to a configuration: parses and checks all settings, once at start-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .entries import Setting, invalid
from .kinds import FILE
from .otel import resource_attributes
from .parsers import pinned
from .secrets import is_reference, path_of, resolve
from .settings import SETTINGS, Config, ConfigError

_HERE = Path()


def load(environ: Mapping[str, str]) -> Config:
    """Parse `environ`. Raises ConfigError with every problem found."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    references = []
    for entry in SETTINGS:
        text = environ.get(entry.env, entry.default)
        try:
            values[entry.field] = _value(entry, text, environ)
        except ValueError as error:
            problems.append(f"{entry.env}: {error}")
        if entry.refers and is_reference(text):
            references.append((entry.field, text))
    if not problems:
        problems = _cross_check(values)
    resource: tuple[tuple[str, str], ...] = ()
    if values.get("otlp_endpoint") is not None:
        try:
            resource = resource_attributes(environ)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return Config(**values, references=tuple(references), resource=resource)


def read_again(config: Config, environ: Mapping[str, str]) -> Config:
    """`config` with the values that are kept now where its settings refer to. Raises ConfigError."""
    entries = {entry.field: entry for entry in SETTINGS}
    values, problems = {}, []
    for name, text in config.references:
        try:
            values[name] = _value(entries[name], text, environ)
        except ValueError as error:
            problems.append(f"{entries[name].env}: {error}")
    if problems:
        raise ConfigError(problems)
    return replace(config, **values)


def _value(entry: Setting, text: str, environ: Mapping[str, str]) -> Any:
    """Raises ValueError with the whole message but for the setting's name."""
    if entry.kind is FILE:
        return entry.kind.parse(path_of(text, environ))
    is_elsewhere = entry.refers and is_reference(text)
    secret = resolve(text, environ, _HERE) if is_elsewhere else text
    try:
        value = entry.kind.parse(secret)
    except ValueError as error:
        shown = invalid(secret, error, secret=entry.secret)
        raise ValueError(f"{text}: {shown}" if is_elsewhere else shown) from None
    if is_elsewhere and value is None:
        raise ValueError(f"{text}: there is no value but `off`; if that is intended, leave the setting empty")
    return value


def _cross_check(values: Mapping[str, Any]) -> list[str]:
    problems = []
    low, high = pinned(values["low_water"]), pinned(values["high_water"])
    if low is not None and high is not None and low >= high:
        problems.append("FLOW_LOW_WATER: must be below FLOW_HIGH_WATER")
    elif high == 1:
        problems.append("FLOW_HIGH_WATER: must be above 1, since FLOW_LOW_WATER is below it")
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        problems.append("FLOW_TLS_CERT, FLOW_TLS_KEY: set both, or neither")
    if values["tls_client_ca"] is not None and values["tls_cert"] is None:
        problems.append("FLOW_TLS_CLIENT_CA: needs FLOW_TLS_CERT and FLOW_TLS_KEY")
    return problems


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """A line for each FLOW_ name that means nothing here.

    A warning and no error: orchestrators add variables of their own, such as FLOW_SERVICE_HOST for a service `flow`.
    """
    known = {entry.env for entry in SETTINGS}
    lines = []
    for name in sorted(environ):
        if name.startswith("FLOW_") and name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{name}: there is no such setting{hint}")
    return lines
