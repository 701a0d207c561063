"""Writes the manual page, docs/flowserver.1 (man(7)), from the commands' own parsers and the settings' entries."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..config.entries import Group
from ..config.settings import SETTINGS
from .command_table import COMMANDS, parser_of
from .flags import ABOUT, plain, shape_of
from .usage import actions_of, subcommands

_HEAD = r""".\" Made by `make docs` from the code; do not edit.
.TH FLOWSERVER 1 "" "flowserver" "User Commands"
.SH NAME
flowserver \- an edge relay for LLM token streams with backpressure that reaches the provider
.SH SYNOPSIS
"""
_SETTINGS = (
    "Each is an environment variable, or a flag of \\fBserve\\fR and \\fBcheck\\fR, which overrides it. An "
    "empty value is the default. Sizes are bytes, or have a unit (64k, 1m); times are seconds, or have a unit (500ms, "
    "5m, 1h30m)."
)
_STATUS = (
    ("0", "Success."),
    ("1", "Something is unavailable now and may recover: an address in use, Redis, a provider."),
    ("2", "Wrong usage of the command line."),
    ("78", "The configuration is wrong; starting again does not help."),
)
_SIGNALS = (
    ("SIGHUP", "Read the file of FLOW_CONFIG, certificates and secrets again."),
    ("SIGTERM, SIGINT", "Drain, then end; a second signal ends at once."),
    ("SIGUSR2", "Start the new version of the program, which takes over."),
)


def man_page() -> str:
    lines = [
        *_HEAD.splitlines(),
        *(line for name in COMMANDS for line in (f"\\fBflowserver {name}\\fR {_shape(parser_of(name))}", ".br")),
        ".SH DESCRIPTION",
        _text(ABOUT),
        ".SH COMMANDS",
        *(line for name, about in COMMANDS.items() for line in _command(name, about)),
        ".SH SETTINGS",
        _SETTINGS,
        *_settings(),
        ".SH SIGNALS",
        *(line for name, about in _SIGNALS for line in _item(name, about)),
        ".SH EXIT STATUS",
        *(line for name, about in _STATUS for line in _item(name, about)),
        ".SH SEE ALSO",
        "docs/settings.md, docs/operating.md, flowserver.example.toml",
    ]
    return "\n".join(lines) + "\n"


def _shape(parser: argparse.ArgumentParser) -> str:
    """The arguments in the synopsis of a command."""
    settings = {entry.env for entry in SETTINGS}
    parts = []
    for action in actions_of(parser):
        own = [flag for flag in action.option_strings if flag.startswith("--") and flag != "--help"]
        if own and action.dest not in settings:
            value = f" {_metavar(action)}" if action.nargs != 0 else ""
            parts.append(f"[{own[0]}{value}]")
        elif not action.option_strings:
            parts.append(_metavar(action) if action.metavar or not action.choices else "|".join(action.choices))
    if any(action.dest in settings for action in actions_of(parser)):
        parts.append("[--SETTING VALUE ...]")
    return _text(" ".join(parts))


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _command(name: str, about: str) -> Iterator[str]:
    yield from _item(name, _sentence(about))
    for action in actions_of(parser_of(name)):
        helps = {each.dest: each.help or "" for each in getattr(action, "_choices_actions", ())}
        for inner in subcommands(action):
            yield from (".RS", *_item(f"{name} {inner}", _sentence(helps.get(inner, ""))), ".RE")


def _settings() -> Iterator[str]:
    group: Group | None = None
    for entry in SETTINGS:
        if entry.group is not group:
            group = entry.group
            yield f".SS {_text(group.title)}"
        default = f" Default: {entry.default}." if entry.default else ""
        yield ".TP"
        yield f"\\fB{_text(entry.flag)}\\fR \\fI{_text(shape_of(entry.kind))}\\fR, \\fB{entry.env}\\fR"
        yield _text(f"{plain(entry.doc)}{default}")


def _item(name: str, about: str) -> Iterator[str]:
    yield from (".TP", f"\\fB{_text(name)}\\fR", _text(about))


def _sentence(about: str) -> str:
    return f"{about[:1].upper()}{about[1:]}."


def _text(text: str) -> str:
    """Escape text for roff: backslashes, minus signs, and lines that begin with a dot or a quote."""
    written = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{written}" if written[:1] in (".", "'") else written
