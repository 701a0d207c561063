"""How many files and sockets this process may have open (RLIMIT_NOFILE)."""

from __future__ import annotations

import contextlib
import resource

from ..config.settings import Config

_OTHERS = 64
"""Log, listeners, event loop, Redis, workers."""


def raise_limit() -> None:
    """Take as many as the system gives: shells begin with 1024, for programs that can't do with more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def too_few(config: Config) -> str | None:
    """What is to be told where FLOW_MAX_CONNECTIONS would run out of them; None: they suffice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.max_connections + _OTHERS
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return None
    return (
        f"FLOW_MAX_CONNECTIONS: {config.max_connections} clients need {needed} descriptors, and this process gets "
        f"{hard}; raise the limit (LimitNOFILE= of systemd, ulimit -n), or set it to {max(1, (hard - _OTHERS) // 2)}, "
        "as providers need some too"
    )
