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
    """Tenants that are kept elsewhere."""

    def find(self, key: bytes, done: Callable[[Tenant | None, bool], None]) -> None:
        """Whose `key` is, at once or later. The second is False when that could not be found out."""


@dataclass(frozen=True, slots=True)
class QuotaContext:
    """What the exchanges of a relay with tenants share. `directory` None: all tenants are in the configuration. `now`
    is seconds since the epoch."""

    tenants: Tenants
    limiter: Limiter
    now: Callable[[], float]
    directory: Directory | None = None
    profiles: LimitProfileCache = field(default_factory=LimitProfileCache)
    streams: str = field(default_factory=lambda: os.urandom(8).hex())
    """How the ids of this relay's streams begin: made here, as workers are forked from one process."""

    def identify(self, request: RequestHead, done: Callable[[Tenant | RelayError], None]) -> None:
        """Whose request it is, at once or later."""
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
    """The user within a tenant: by header, else as the request's own field says."""
    value = request.find(USER)
    return user_name(_text(value)) if value else user_name(named)


def session_of(request: RequestHead) -> str | None:
    value = request.find(SESSION)
    return user_name(_text(value)) if value else None


def _text(value: bytes) -> str:
    """A name in UTF-8, as bodies have it; else each byte is a character."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
