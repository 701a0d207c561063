"""Requests that their clients signed for AWS: at which providers the signature is valid. No I/O."""

from __future__ import annotations

from ..errors import RelayError, bad_request
from ..http.aws_signature import signed_fields
from ..http.messages import HOP_BY_HOP, METHOD_OVERRIDES, PRIVATE, PSEUDO_AUTHORITY, REQUEST_OWN, RequestHead
from .provider import Provider

SIGNED_PATH = bad_request(
    "The request has an AWS signature, which covers its path, but the provider's URL has a path of its own. "
    "Sign for the provider itself, or send the request without a signature.",
    code="signed_path",
)
SIGNED_HOST = bad_request(
    "The request has an AWS signature, which covers the host that it was signed for. That is not the provider's host, "
    "so the provider would refuse it. Send the request without a signature and have the relay sign it (auth = "
    "'aws-sigv4'), or send an Amazon Bedrock API key as Authorization: Bearer (AWS_BEARER_TOKEN_BEDROCK).",
    code="signed_host",
)
SIGNED_FIELDS = bad_request(
    "The request has an AWS signature that covers fields which this relay sets itself or doesn't pass on. Sign only "
    "host, content-type and the x-amz- fields.",
    code="signed_fields",
)

_CHANGED = (HOP_BY_HOP | REQUEST_OWN | METHOD_OVERRIDES | PRIVATE) - {b"host", b"content-length"}


def signature_error(request: RequestHead, provider: Provider) -> RelayError | None:
    """Why the signature of `request` can't be valid at `provider`; None: everything that it covers arrives
    unchanged."""
    host = request.find(PSEUDO_AUTHORITY) or request.find(b"host") or b""
    if host.lower() != provider.authority.lower():
        return SIGNED_HOST
    if provider.settings.url.path.strip("/"):
        return SIGNED_PATH
    replaced = {name for name, _ in provider.settings.headers}
    for name in signed_fields(request):
        if name in _CHANGED or name in replaced or name.startswith(b"x-forwarded-"):
            return SIGNED_FIELDS
    return None
