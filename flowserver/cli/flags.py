"""Settings as flags of a command: `--high-water 64k` overrides FLOW_HIGH_WATER."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..config.entries import Group, Kind, Setting
from ..config.kinds import FILE, SWITCH
from ..config.secrets import FORMS, is_reference
from ..config.settings import SETTINGS
from .usage import Parser

ABOUT = (
    "Each flag overrides its variable: --high-water overrides FLOW_HIGH_WATER. What belongs to one provider, route "
    "or tenant is set in the file of --config."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, in the groups of the reference."""
    sections: dict[Group, Any] = {}
    for entry in SETTINGS:
        if entry.group not in sections:
            sections[entry.group] = parser.add_argument_group(entry.group.title)
        # A switch flag without a value is on.
        alone: dict[str, Any] = {"nargs": "?", "const": "on"} if entry.kind is SWITCH else {}
        sections[entry.group].add_argument(
            entry.flag, dest=entry.env, metavar=shape_of(entry.kind), help=_help(entry), **alone
        )


def flags_of(options: argparse.Namespace, parser: Parser) -> dict[str, str]:
    """The values that were given, by the names of their variables. Ends the process if one is a secret, which anyone
    who can list processes would see."""
    given = {entry: getattr(options, entry.env) for entry in SETTINGS}
    found = {entry: text for entry, text in given.items() if text is not None}
    for entry, text in found.items():
        if _is_exposed(entry, text):
            parser.error(
                f"{entry.flag}: a secret on the command line is visible in the list of processes; "
                f"set {entry.env}, or give a reference: {FORMS}"
            )
    return {entry.env: text for entry, text in found.items()}


def _is_exposed(entry: Setting, text: str) -> bool:
    """Whether `text` exposes a secret: a URL without credentials does not, nor does the path of a key file."""
    if not entry.secret or not text or entry.kind is FILE or (entry.refers and is_reference(text)):
        return False
    return "://" not in text or "@" in text or "password" in text.lower()


def shape_of(kind: Kind) -> str:
    """The placeholder for a value of this kind in help: `SIZE|auto`."""
    parts = re.split(r", | or ", kind.name)
    return "|".join(part.strip("`") if part.startswith("`") else part.upper().replace(" ", "_") for part in parts)


def words_of(kind: Kind) -> list[str]:
    """The fixed words among the values of this kind."""
    words = [part.strip("`") for part in re.split(r", | or ", kind.name) if part.startswith("`")]
    return [word for word in words if word.islower()]


def _help(entry: Setting) -> str:
    default = f" [{entry.default}]" if entry.default else ""
    return f"{plain(entry.summary)}{default}".replace("%", "%%")


def plain(doc: str) -> str:
    """A description without Markdown."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", doc).replace("`", "")
