"""What is wrong with a configuration. No I/O."""

from __future__ import annotations


class ConfigError(Exception):
    """One or more settings are wrong; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotNowError(ConfigError):
    """What is configured can't be had now, and may be later without any change to it: an address that is in use."""
