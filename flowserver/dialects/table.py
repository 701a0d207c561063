"""The table of formats, and what follows from it: the format of a path, the fields of keys and limits. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from ..names import cached
from .api_paths import deployment_of
from .base import Auth, Format


class FormatTable:
    """`formats`: the first one that serves a path is chosen."""

    __slots__ = (
        "_limit_patterns",
        "_serving",
        "_storing",
        "account_fields",
        "formats",
        "key_paths",
        "limit_fields",
        "limit_prefixes",
    )

    def __init__(self, formats: Sequence[Format]) -> None:
        self.formats = {known.name: known for known in formats}
        """By name."""

        def serving(path: str) -> Format | None:
            return next((known for known in formats if known.serves(path)), None)

        def storing(path: str) -> Format | None:
            return next((known for known in formats if known.stores(path)), None)

        self._serving, self._storing = cached(serving), cached(storing)
        key_paths = dict.fromkeys(known.key_paths for known in formats if known.key_paths is not None)
        self.key_paths = sorted(key_paths, key=lambda each: each.auth is Auth.BEARER)
        """How APIs take keys. Those with a field of their own come first: Bearer is shared by most."""
        limit_fields = list(dict.fromkeys(known.limit_fields for known in formats))
        self.limit_fields = tuple(name for each in limit_fields for name in (*each.requests, *each.tokens))
        """The names of all fields that report limits to clients."""
        self.limit_prefixes = tuple(each.prefix for each in limit_fields)
        """Prefixes of the field names that `remaining_kind` knows."""
        self.account_fields = frozenset[bytes]().union(*(known.account_fields for known in formats))
        """Fields of answers that identify the account at a provider."""
        self._limit_patterns = [each.remaining for each in limit_fields]

    def recognise(self, target: str) -> Format | None:
        """The format of requests to `target`, a path and query; None: not a counted API."""
        return self._serving(target.partition("?")[0])

    def recognise_stored(self, target: str) -> Format | None:
        """The format of an answer that is fetched by its id, and may not have been paid for yet."""
        return self._storing(target.partition("?")[0])

    def path_model(self, target: str) -> str | None:
        """The model that the path of any request names, counted or not; None: it names none."""
        known = self.recognise(target)
        return deployment_of(target) if known is None else known.path_model(target)

    def remaining_kind(self, field: bytes) -> str | None:
        """The kind of limit, such as "tokens", whose remaining amount is in a field of an answer; None: in none."""
        for pattern in self._limit_patterns:
            match = pattern.fullmatch(field)
            if match is not None:
                return match[1].decode("ascii")
        return None
