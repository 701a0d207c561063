"""How many files and sockets this process may have open (RLIMIT_NOFILE)."""

from __future__ import annotations

import contextlib
import resource

from ..config.settings import Config

_OTHERS = 64
"""Log, listeners, event loop, Redis, workers."""


def raise_limit() -> None:
    """Raise the soft limit to the hard one: shells start with 1024, for programs that can't cope with more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def too_few(config: Config) -> str | None:
    """A warning if descriptors do not suffice for FLOW_MAX_CONNECTIONS; None: they do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.max_connections + _OTHERS
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return None
    return (
        f"FLOW_MAX_CONNECTIONS: {config.max_connections} clients need {needed} descriptors, but this process gets only "
        f"{hard}; raise the limit (LimitNOFILE= of systemd, ulimit -n), or set it to {max(1, (hard - _OTHERS) // 2)}, "
        "as providers need some too"
    )
