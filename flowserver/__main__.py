"""The entry point of the command line. It imports as little as it can; `commands` has the commands."""

from __future__ import annotations

import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: see `cli.exit_status`."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["serve"]:
        # Before anything else is imported, which takes a while: a SIGHUP waits until there is a relay to reload.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from .cli.commands import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
