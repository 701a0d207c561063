"""Requests that their clients signed for AWS: where such a signature holds. No I/O."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from ..errors import RelayError, bad_request
from ..http.messages import HOP_BY_HOP, METHOD_OVERRIDES, PRIVATE, PSEUDO_AUTHORITY, REQUEST_OWN, RequestHead
from ..http.paths import is_signed
from .upstream_host import Target

SIGNED_PATH = bad_request(
    "The request has an AWS signature, which covers its path, and its provider has another one before it. "
    "Sign for the provider itself, or send the request without a signature.",
    code="signed_path",
)
SIGNED_HOST = bad_request(
    "The request has an AWS signature, which covers the host that it was signed for. That is not the provider's, so "
    "the provider would refuse it. Send the request without a signature and have the relay sign it "
    "(auth = 'aws-sigv4'), or show an Amazon Bedrock API key as Authorization: Bearer (AWS_BEARER_TOKEN_BEDROCK).",
    code="signed_host",
)
SIGNED_FIELDS = bad_request(
    "The request has an AWS signature that covers fields which this relay writes itself or doesn't pass on. Sign only "
    "host, content-type and the x-amz- fields.",
    code="signed_fields",
)

_NAMES = re.compile(rb"SignedHeaders=([^,\s]+)")
_NAMES_IN_QUERY = re.compile(rb"(?:^|&)X-Amz-SignedHeaders=([^&]+)", re.IGNORECASE)
_CHANGED = (HOP_BY_HOP | REQUEST_OWN | METHOD_OVERRIDES | PRIVATE) - {b"host", b"content-length"}


def has_signature(request: RequestHead) -> bool:
    """Whether its client signed `request`. Most are told at a look."""
    shown = request.find(b"authorization")
    if (shown is None or shown[:1] not in (b"A", b"a")) and request.target.find(b"?") < 0:
        return False
    return is_signed(request.target, request.headers)


def signature_error(request: RequestHead, target: Target) -> RelayError | None:
    """Why the signature of `request` can't hold at `target`; None: what it covers gets there as it was signed."""
    host = request.find(PSEUDO_AUTHORITY) or request.find(b"host") or b""
    if host.lower() != target.authority.lower():
        return SIGNED_HOST
    if target.settings.url.path.strip("/"):
        return SIGNED_PATH
    replaced = {name for name, _ in target.settings.headers}
    for name in _signed_fields(request):
        if name in _CHANGED or name in replaced or name.startswith(b"x-forwarded-"):
            return SIGNED_FIELDS
    return None


def _signed_fields(request: RequestHead) -> list[bytes]:
    match = _NAMES.search(request.find(b"authorization") or b"")
    if match is None:
        match = _NAMES_IN_QUERY.search(request.target.partition(b"?")[2])
    return unquote_to_bytes(match[1]).lower().split(b";") if match is not None else []
