"""AWS Signature Version 4 once more, by its specification: what a provider checks and a client's library makes.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

import orjson

from .wire import Message, response

_SHOWN = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True)
class Shown:
    """What an Authorization field says."""

    access_key: str
    day: str
    region: str
    service: str
    names: tuple[str, ...]
    signature: str


def shown(authorization: str) -> Shown | None:
    match = _SHOWN.fullmatch(authorization)
    if match is None:
        return None
    access_key, day, region, service, names, signature = match.groups()
    return Shown(access_key, day, region, service, tuple(names.split(";")), signature)


def signature(
    secret: str, method: str, target: str, headers: Mapping[str, str], body: bytes, names: tuple[str, ...], scope: str
) -> str:
    """Of a request whose x-amz-date is among `headers`. `scope` is day, region, service and "aws4_request"."""
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [
            method,
            "/".join(quote(segment, safe="-_.~") for segment in path.split("/")),
            _query(query),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            sha256(body).hexdigest(),
        ]
    )
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha256(canonical.encode()).hexdigest()]
    return hmac.digest(key, "\n".join(text).encode(), "sha256").hex()


def _query(query: str) -> str:
    pairs = []
    for parameter in query.split("&") if query else ():
        name, _, value = parameter.partition("=")
        pairs.append(tuple(quote(unquote_to_bytes(part), safe="-_.~") for part in (name, value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def problem_of(message: Message, secret: str) -> str | None:
    """Why a provider refuses the signature of `message`; None: it holds."""
    said = shown(message.get("authorization") or "")
    if said is None:
        return "no signature"
    method, target, _ = message.start.split(" ")
    headers = {name: ",".join(message.all(name)) for name in message.names}
    unsigned = {name for name in headers if name == "host" or name.startswith("x-amz-")} - set(said.names)
    if unsigned:
        return f"not signed: {sorted(unsigned)}"
    if headers.get("x-amz-content-sha256", sha256(message.body).hexdigest()) != sha256(message.body).hexdigest():
        return "another body"
    scope = f"{said.day}/{said.region}/{said.service}/aws4_request"
    expected = signature(secret, method, target, headers, message.body, said.names, scope)
    return None if said.signature == expected else "another signature"


def checking(secret: str, answer: bytes) -> Callable[[Message], bytes]:
    """Of a provider that checks signatures as Amazon Bedrock does."""

    def check(message: Message) -> bytes:
        problem = problem_of(message, secret)
        if problem is None:
            return response(answer, ["Content-Type: application/json"])
        return response(orjson.dumps({"message": problem}), status="403 Forbidden")

    return check


def signed_lines(
    method: str, target: str, host: str, body: bytes, *, secret: str, extra: Mapping[str, str] | None = None
) -> list[str]:
    """The header lines of a request that its client signs for `host`, without Host itself."""
    headers = {"content-type": "application/json", "host": host, "x-amz-date": "20260101T000000Z", **(extra or {})}
    names = tuple(sorted(headers))
    scope = "20260101/us-east-1/bedrock/aws4_request"
    made = signature(secret, method, target, headers, body, names, scope)
    authorization = f"AWS4-HMAC-SHA256 Credential=AKIA/{scope}, SignedHeaders={';'.join(names)}, Signature={made}"
    lines = [f"{name}: {value}" for name, value in headers.items() if name != "host"]
    return [*lines, f"authorization: {authorization}"]
