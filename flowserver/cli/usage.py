"""Parses command lines: flags can't be abbreviated, and for a misspelt one there is a suggestion."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..config.entries import suggestion

_WRONG_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser`, also for subcommands. Wrong usage ends the process with status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """`parse_args`, with suggestions for unknown flags."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            hint = next((hint for word in unknown if (hint := self._guess(word))), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return options

    def error(self, message: str) -> NoReturn:
        match = _WRONG_CHOICE.search(message)
        if match is not None:
            message += suggestion(match[1], re.findall(r"[\w-]+", match[2]))
        super().error(message)

    def _guess(self, word: str) -> str:
        """A suggestion for an unknown flag, which may be the name of a variable."""
        name, _, value = word.partition("=")
        if re.fullmatch(r"FLOW_[A-Z0-9_]+", name) and value:
            return f"; a variable goes before the command: {word} {self.prog}"
        plain = name.lower().replace("_", "-").lstrip("-").removeprefix("flow-")
        return suggestion(f"--{plain}", set(self._flags())) if name.startswith("-") else ""

    def _flags(self) -> Iterator[str]:
        for action in all_actions(self):
            yield from action.option_strings


def all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The actions of `parser` and of its subcommands."""
    for action in actions_of(parser):
        yield action
        for inner in subcommands(action).values():
            yield from all_actions(inner)


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions of `parser`; argparse has no public name for them."""
    return parser._actions  # noqa: SLF001


def subcommands(action: argparse.Action) -> dict[str, argparse.ArgumentParser]:
    """The parsers of subcommands by name; empty if `action` has none."""
    choices = action.choices
    is_of_parsers = isinstance(choices, dict) and all(
        isinstance(each, argparse.ArgumentParser) for each in choices.values()
    )
    return dict(choices) if is_of_parsers and choices else {}
