"""How a request is changed for its provider: target, key, fields and body. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..dialects import TABLE, path_model
from ..dialects.api_paths import with_model
from ..dialects.key_fields import auth_for, key_field
from ..dialects.realtime import with_model_in_query
from ..errors import RelayError
from ..http.aws_signature import has_signature
from ..http.messages import CREDENTIALS, RequestHead
from ..quota.query_keys import without_keys
from .cors import REQUEST_FIELDS
from .provider import Provider
from .request_reading import RequestReading
from .signatures import signature_error

_NOTHING: Final[frozenset[bytes]] = frozenset()
_HIDDEN_OF_TENANTS: Final = CREDENTIALS | TABLE.account_fields | {b"openai-organization"}
"""Includes the fields that choose the account to charge, which the provider's configuration decides."""


class RequestRewrite:
    """Rewrites one request: call `body` for each attempt at a provider, and the others for the head of that attempt."""

    __slots__ = ("_has_tenants", "_head", "asks_usage", "is_signed", "reading", "upstream")

    def __init__(self, head: RequestHead, reading: RequestReading, *, has_tenants: bool) -> None:
        """`has_tenants`: clients send relay keys, which no provider may see."""
        self._head = head
        self.reading = reading
        self._has_tenants = has_tenants
        self.is_signed = not has_tenants and has_signature(head)
        """Whether it has an AWS signature that may be passed to a provider. A tenant's never passes."""
        self.upstream: Provider | None = None
        """The provider of the last attempt; None before the first."""
        self.asks_usage = False
        """Whether the relay added the option for a usage report to the request to that provider."""

    def sent_to(self, target: Provider, *, asks_usage: bool) -> None:
        """Of several attempts under way, the one at `target` counts; `asks_usage` is what it was for that attempt."""
        self.upstream = target
        self.asks_usage = asks_usage

    def body(
        self, target: Provider, pieces: Sequence[bytes], *, most: int | None, repeatable: bool
    ) -> tuple[list[bytes], int] | None:
        """(`pieces` of the body for `target`; by how many bytes they grow); None: the body stays unchanged.

        `most`: bound of the answer in tokens; None: no bound. `repeatable`: if the provider refuses what the relay
        adds, the request can be sent again without it."""
        self.upstream = target
        self.asks_usage = False
        if self.is_signed and not self.hides_keys(target):  # the signature covers the body
            return None
        reading, settings = self.reading, target.settings
        values, known, params = reading.values, reading.format, reading.params
        if values is None:
            return None
        renamed = settings.models.get(params.model) if params.model is not None else None
        if renamed is None and most is None and not (params.stream and settings.asks_usage):
            return None
        after = _copy(values)
        if renamed is not None and "model" in after:  # some APIs have it in the path
            after["model"] = renamed
        if known is not None:
            if settings.asks_usage and target.usage_option.may_ask(params.model, repeatable=repeatable):
                self.asks_usage = known.ask_usage(after, settings.quirks)
            if most is not None:
                known.limit(after, most, settings.quirks)
        return reading.changed(after, pieces)

    def target(self, target: Provider, key: bytes | None) -> bytes:
        """The request target for the provider `target`: with that provider's name of a model in the path, and without
        the relay key `key`."""
        hides_keys = self.hides_keys(target)
        if self.is_signed and not hides_keys:
            return self._head.target
        path = self._renamed_target(target)
        return without_keys(path, key) if hides_keys else path

    def _renamed_target(self, target: Provider) -> bytes:
        model = self.reading.params.model
        renamed = target.settings.models.get(model) if model is not None else None
        if model is None or renamed is None:
            return self._head.target
        path = self._head.target.decode("ascii")
        if self._head.is_tunnel:
            return with_model_in_query(path, renamed).encode("ascii")
        return with_model(path, model, renamed).encode("ascii") if path_model(path) == model else self._head.target

    def credential(self, target: Provider) -> tuple[bytes, bytes] | None:
        """The field with the provider's key; None: the client's own key passes, or there is none."""
        settings = target.settings
        if settings.api_key is None:
            return None
        auth = auth_for(settings.auth, settings.quirks, self._head.target, self._head.fields)
        return key_field(auth, settings.api_key)

    def hidden_fields(self, target: Provider, *, cors: bool) -> frozenset[bytes]:
        """The names of fields that are not passed to `target`. `cors`: the relay handles cross-origin requests
        itself."""
        if self._has_tenants:
            names = _HIDDEN_OF_TENANTS
        elif target.settings.holds_key:
            names = CREDENTIALS
        else:
            names = _NOTHING
        return names | REQUEST_FIELDS if cors else names

    def hides_keys(self, target: Provider) -> bool:
        """Whether none of the client's credentials, including a signature, is passed to `target`."""
        return self._has_tenants or target.settings.holds_key

    def signature_error(self, targets: Iterable[Provider]) -> RelayError | None:
        """Why none of `targets` can accept the client's signature; None: one may."""
        error: RelayError | None = None
        for target in targets:
            error = None if target.settings.holds_key else signature_error(self._head, target)
            if error is None:
                break
        return error


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(value) if isinstance(value, dict) else value for name, value in values.items()}
