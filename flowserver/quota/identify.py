"""Finds the tenant of a request. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import RelayError
from ..http.aws_signature import has_signature
from ..http.messages import SESSION, USER, RequestHead
from ..names import user_name
from .lease import Limiter
from .refusals import NO_KEY, NO_STORE, SIGNED_WITHOUT_KEY, UNKNOWN_KEY
from .tenants import LimitProfileCache, Tenant, Tenants, key_of


class Directory(Protocol):
    """Tenants that are kept outside the configuration."""

    def find(self, key: bytes, done: Callable[[Tenant | None, bool], None]) -> None:
        """Find the tenant of `key`; `done` is called at once or later. Its second argument is False if the tenant could
        not be looked up."""


@dataclass(frozen=True, slots=True)
class QuotaContext:
    """What the exchanges of a relay with tenants share. `directory` None: all tenants are in the configuration. `now`
    returns seconds since the epoch."""

    tenants: Tenants
    limiter: Limiter
    now: Callable[[], float]
    directory: Directory | None = None
    profiles: LimitProfileCache = field(default_factory=LimitProfileCache)
    streams: str = field(default_factory=lambda: os.urandom(8).hex())
    """Prefix of the ids of this process's streams: made per instance, since workers are forked from one process."""

    def identify(self, request: RequestHead, done: Callable[[Tenant | RelayError], None]) -> None:
        """Find the tenant of a request; `done` is called at once or later."""
        key = key_of(request)
        if key is None:
            done(SIGNED_WITHOUT_KEY if has_signature(request) else NO_KEY)
            return
        tenant = self.tenants.find(key, self.now())
        if tenant is not None:
            done(tenant)
        elif self.directory is None:
            done(UNKNOWN_KEY)
        else:
            self.directory.find(key, lambda found, known: done(found or (UNKNOWN_KEY if known else NO_STORE)))


def user_of(request: RequestHead, named: str | None) -> str | None:
    """The user within a tenant: from the header, else from the request's own field."""
    value = request.find(USER)
    return user_name(_text(value)) if value else user_name(named)


def session_of(request: RequestHead) -> str | None:
    value = request.find(SESSION)
    return user_name(_text(value)) if value else None


def _text(value: bytes) -> str:
    """Decode a name as UTF-8, like names in bodies; if that fails, each byte is a character."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
