"""Declarations of settings, and of the keys of tables. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. `parse` takes the text or TOML value, and raises ValueError with what is expected; `name` is its
    name in the reference."""

    name: str
    parse: Callable[[Any], Any]
    schema: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """JSON Schema of the value in the TOML file: it allows everything that `parse` accepts, and little else. Empty, as
    for kinds of the environment: anything."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of settings in the reference."""

    title: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one environment variable, and of the field of `Config` with its value."""

    field: str
    default: str
    """The default, written as in the environment."""
    kind: Kind
    group: Group
    doc: str
    swept: bool = False
    """Whether it is a time that the periodic sweep enforces; a short one makes the sweep more frequent."""
    reloaded: bool = False
    """Whether it names a file that a reload (SIGHUP) reads again."""
    secret: bool = False
    """Whether its value is, or may contain, a secret."""
    refers: bool = False
    """Whether its value may be a reference: see `secrets`."""

    @property
    def env(self) -> str:
        return f"FLOW_{self.field.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.field.replace('_', '-')}"

    @property
    def summary(self) -> str:
        """Its description's first sentence."""
        return self.doc.partition(". ")[0].removesuffix(".")


class Origin(StrEnum):
    """Where a setting's value comes from. A flag overrides the environment."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class GivenSetting:
    """A setting as the user wrote it."""

    name: str
    """`FLOW_LISTEN`."""
    shown: str
    """The text for display: of a secret only its reference, or that it is set."""
    origin: Origin


def setting(default: str, kind: Kind, group: Group, *, secret: bool = False, **entry: Any) -> Any:
    """Declare a setting, as a field of `Config`; see `Setting`."""
    metadata = {"default": default, "kind": kind, "group": group, "secret": secret, **entry}
    return field(repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a TOML table."""

    name: str
    kind: Kind
    doc: str
    required: bool = False
    inherits: str = ""
    """The field of `Config` that is used if the table lacks the key; empty: none."""
    swept: bool = False
    """As in `Setting`."""
    secret: bool = False
    """Whether messages must not show the value."""


def suggestion(word: Any, known: Iterable[str]) -> str:
    """The end of a message about `word`, which is not in `known`: the most similar word, if there is one."""
    close = get_close_matches(word, list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def invalid(value: Any, error: ValueError, *, secret: bool = False) -> str:
    """The message for a value that could not be parsed. Lists, tables and secrets are not shown, nor is text with an
    `@`, which may be a URL with credentials."""
    if secret or isinstance(value, list | dict) or (isinstance(value, str) and "@" in value):
        shown = ""
    elif isinstance(value, bool):
        shown = " true" if value else " false"
    else:
        shown = f" {value[:100]!r}" if isinstance(value, str) else f" {str(value)[:100]}"
    return f"invalid value{shown}: {error}"
