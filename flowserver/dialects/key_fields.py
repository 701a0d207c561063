"""Decides in which field a provider takes its key: by its profile, the path, or the client's own field. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from ..names import cached
from . import TABLE
from .api_paths import without_parameters
from .base import Auth, KeyPaths, Quirks

_FIELDS: dict[Auth, tuple[bytes, bytes]] = {
    Auth.BEARER: (b"authorization", b"Bearer "),
    Auth.X_API_KEY: (b"x-api-key", b""),
    Auth.API_KEY: (b"api-key", b""),
    Auth.X_GOOG_API_KEY: (b"x-goog-api-key", b""),
}

KEY_FIELDS = tuple(name for name, _ in _FIELDS.values())
"""The names of all fields in which APIs take keys."""

_GATEWAYS = (
    # Azure: a model's deployment, or a version that no other API asks for in this way.
    KeyPaths(Auth.API_KEY, re.compile(r"/openai/deployments/|[?&]api-version=")),
    # OpenAI's API at Google or Groq; Google's at Vertex AI.
    KeyPaths(Auth.BEARER, re.compile(r"/openai/|/projects/[^/?]+/locations/")),
)
"""Targets of providers that serve other vendors' APIs but take keys in their own way."""


def key_field(auth: Auth, key: bytes) -> tuple[bytes, bytes]:
    """The header field that carries `key`."""
    name, prefix = _FIELDS[auth]
    return name, prefix + key


def auth_for(own: Auth | None, quirks: Quirks, target: bytes, fields: Mapping[bytes, bytes]) -> Auth:
    """How to send a key with a request to `target`, a path and query, whose client sent `fields`.

    `own` is the provider's configuration (None: nothing), which takes precedence.
    """
    if own is not None:
        return own
    if quirks.auth is not None and not quirks.auth_by_path:
        return quirks.auth
    return auth_of(target) or quirks.auth or _shown(target, fields)


@cached
def auth_of(target: bytes) -> Auth | None:
    """How the API that `target` belongs to takes keys; None: it may be one of several."""
    path, question, query = target.decode("ascii").partition("?")
    read = (without_parameters(unquote(path)).rstrip("/") + question + query).lower()
    return next((auth for auth, targets in (*_GATEWAYS, *TABLE.key_paths) if targets.search(read)), None)


def _shown(target: bytes, fields: Mapping[bytes, bytes]) -> Auth:
    """As the client sends its own key: the only hint for paths that several APIs share, such as `GET /v1/models`."""
    if b"anthropic-version" in fields:
        return Auth.X_API_KEY
    for auth, (name, _) in _FIELDS.items():
        if name in fields:
            return auth
    return Auth.X_GOOG_API_KEY if b"?key=" in target or b"&key=" in target else Auth.BEARER
