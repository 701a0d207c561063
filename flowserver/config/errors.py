"""Errors in a configuration. No I/O."""

from __future__ import annotations


class ConfigError(Exception):
    """One or more settings are wrong; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotNowError(ConfigError):
    """The configuration can't be used now, but may be later without any change: an address is in use, for example."""
