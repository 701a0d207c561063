"""Keys in the query of a request's target, where some APIs accept them too. No I/O."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

_NAMES = frozenset((b"key", b"$key", b"api_key", b"api-key", b"apikey", b"access_token", b"oauth_token"))
_OF_SIGNATURES = b"x-amz-"
"""Prefix of the parameters of a request that is signed in its query (AWS)."""


def key_in_query(target: bytes) -> bytes | None:
    """The key in `?key=`, which Gemini's API accepts; None: there is none."""
    if target.find(b"?") < 0:
        return None
    for parameter in target.partition(b"?")[2].split(b"&"):
        name, _, value = parameter.partition(b"=")
        if value and unquote_to_bytes(name) == b"key":
            return unquote_to_bytes(value)
    return None


def without_keys(target: bytes, secret: bytes | None = None) -> bytes:
    """`target` without parameters that are a key, belong to a signature, or contain `secret`. The rest stays unchanged,
    byte for byte."""
    if target.find(b"?") < 0:
        return target
    path, _, query = target.partition(b"?")
    parameters = query.split(b"&")
    kept = [parameter for parameter in parameters if not _is_key(parameter, secret)]
    if len(kept) == len(parameters):
        return target
    return b"%b?%b" % (path, b"&".join(kept)) if kept else path


def _is_key(parameter: bytes, secret: bytes | None) -> bool:
    name = unquote_to_bytes(parameter.partition(b"=")[0]).lower()
    if name in _NAMES or name.startswith(_OF_SIGNATURES):
        return True
    return secret is not None and secret in unquote_to_bytes(parameter)
