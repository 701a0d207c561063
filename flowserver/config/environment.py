"""Parses and checks all settings from the environment and the command line, once at startup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .entries import GivenSetting, Origin, Setting, invalid, suggestion
from .errors import ConfigError
from .kinds import FILE
from .otel import resource_attributes
from .parsers import pinned
from .secrets import is_reference, path_of, resolve
from .settings import SETTINGS, Config

_HERE = Path()
_NO_FLAGS: Mapping[str, str] = {}
_QUOTED = re.compile(r"""(["'`]).*\1|[\u201c\u201d\u2018\u2019].*""", re.DOTALL)
_VARIABLE = re.compile(r"\$\{\w+[^}]*\}|\$\([A-Za-z_]\w*\)|^\$[A-Za-z_]\w*(?=$|/)|(?<=:)\$[A-Z_][A-Z0-9_]*(?=@|$)")
"""A variable of a shell or of Kubernetes that was not replaced by its value."""


def load(environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS) -> Config:
    """Parse `environ` and `flags`, which map names of settings to values; flags take precedence. An empty value means
    the default. Raises ConfigError with every problem found."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    references = []
    for entry in SETTINGS:
        text, origin = _written(entry, environ, flags)
        try:
            values[entry.field] = _value(entry, text, environ)
        except ValueError as error:
            problems.append(f"{entry.flag if origin is Origin.FLAG else entry.env}: {error}")
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
    return Config(**values, references=tuple(references), resource=resource, given=given_settings(environ, flags))


def given_settings(environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS) -> tuple[GivenSetting, ...]:
    """All settings as written in `environ` and `flags`, valid or not."""
    found = []
    for entry in SETTINGS:
        text, origin = _written(entry, environ, flags)
        is_hidden = entry.secret and text and not (entry.refers and is_reference(text))
        found.append(GivenSetting(entry.env, "(set)" if is_hidden else text, origin))
    return tuple(found)


def _written(entry: Setting, environ: Mapping[str, str], flags: Mapping[str, str]) -> tuple[str, Origin]:
    """A setting's text, without whitespace around it such as the CR of a Windows line end."""
    origin = Origin.FLAG if entry.env in flags else Origin.ENVIRONMENT
    text = (flags if origin is Origin.FLAG else environ).get(entry.env, "").strip()
    return (text, origin) if text else (entry.default, Origin.DEFAULT)


def read_again(config: Config, environ: Mapping[str, str]) -> Config:
    """`config` with the current values of its references. Raises ConfigError."""
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
    """Parse a value. Raises ValueError with the message, without the setting's name."""
    _check_spelling(entry, text)
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
        raise ValueError(f"{text}: its value is only `off`; if that is intended, leave the setting empty")
    return value


def _check_spelling(entry: Setting, text: str) -> None:
    """Raise ValueError for a value with shell syntax, from a file that no shell reads."""
    shown = "" if entry.secret else f" {text[:100]}"
    if _QUOTED.fullmatch(text):
        raise ValueError(f"invalid value{shown}: the quotes are part of the value; remove them")
    if _VARIABLE.search(text):
        remedy = "give its value" + (", or a reference such as env:NAME" if entry.refers else "")
        raise ValueError(f"invalid value{shown}: a variable in it was not replaced by its value; {remedy}")
    if entry.kind is FILE and text.startswith("~"):
        raise ValueError(f"invalid value{shown}: ~ is only expanded by shells; give the full path")


def _cross_check(values: Mapping[str, Any]) -> list[str]:
    problems = []
    low, high = pinned(values["low_water"]), pinned(values["high_water"])
    if low is not None and high is not None and low >= high:
        problems.append("FLOW_LOW_WATER: must be below FLOW_HIGH_WATER; set only one of them, and the other follows")
    elif high == 1:
        problems.append("FLOW_HIGH_WATER: must be above 1, since FLOW_LOW_WATER is below it")
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        problems.append("FLOW_TLS_CERT, FLOW_TLS_KEY: set both, or neither")
    if values["tls_client_ca"] is not None and values["tls_cert"] is None:
        problems.append("FLOW_TLS_CLIENT_CA: needs FLOW_TLS_CERT and FLOW_TLS_KEY")
    return problems


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """A line for each unknown FLOW_ name.

    A warning, not an error: orchestrators add variables of their own, such as FLOW_SERVICE_HOST for a service `flow`.
    """
    known = {entry.env for entry in SETTINGS}
    unknown = sorted(name for name in environ if name.startswith("FLOW_") and name not in known)
    return [f"{name}: unknown setting{suggestion(name, known)}" for name in unknown]
