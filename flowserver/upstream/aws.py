"""AWS Signature Version 4 by botocore, with credentials found as AWS's own tools find them.

Finding or renewing credentials may take seconds (files, programs, the metadata of an instance or container), and
hashing a large body takes milliseconds. Both run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from ..errors import EndReason, Party, RelayError
from ..http.messages import Headers, RequestHead
from ..relay.interfaces import Clock
from .signing import Signed

SERVICE = "bedrock"
RENEWAL = 15 * 60
"""Seconds before they expire at which credentials are renewed."""
LAST_MINUTE = 60
"""Seconds before they expire from which credentials are no longer used."""
RETRY = 30
"""Seconds between two attempts to renew credentials that are still valid."""
HASHED_AT_ONCE = 1 << 18
"""Bytes of a body that are hashed in the event loop: a quarter of a millisecond."""

_REGION = re.compile(r"(?:^|\.)bedrock[a-z-]*\.([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.")
_SIGNED_TOO = re.compile(rb"x-amz-(?!date$|security-token$|content-sha256$)")

NO_CREDENTIALS = RelayError(
    502,
    "no_aws_credentials",
    "The provider needs signed requests, but the relay finds no AWS credentials. Provide them as for the AWS CLI: "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of its instance or container.",
    Party.RELAY,
    EndReason.REFUSED,
    not_processed=True,
)


class SigningUnavailable(Exception):
    """Requests can't be signed; the text says what to do."""


def region_of(host: str) -> str | None:
    """The region in a host name of Amazon Bedrock."""
    match = _REGION.search(host.lower())
    return match[1] if match is not None else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """A snapshot of botocore's credentials."""

    access_key: str
    secret_key: str
    token: str | None


class CredentialSource:
    """Loads credentials as AWS's tools do. `load` may block."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._found: Any = None

    def load(self) -> Credentials | None:
        """The current credentials, renewed if necessary; None if there are none."""
        if self._found is None:
            self._found = self._session.get_credentials()
        if self._found is None:
            return None
        frozen = self._found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def ends_within(self, seconds: int) -> bool:
        """Whether the loaded credentials expire within `seconds`. Never blocks."""
        check = getattr(self._found, "refresh_needed", None)
        return check is not None and bool(check(refresh_in=seconds))


Background = Callable[[Callable[[], None]], None]
"""Runs a function outside the event loop."""


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a daemon thread, which does not delay exit however long it takes."""
    threading.Thread(target=work, name="aws", daemon=True).start()


class AwsSigner:
    """Signs requests to one provider. Needs a running event loop."""

    def __init__(
        self, source: CredentialSource, region: str, clock: Clock, *, background: Background = in_thread
    ) -> None:
        self._source = source
        self._region = region
        self._clock = clock
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._credentials: Credentials | None = None
        self._waiting: list[Callable[[], None]] = []
        """Called when credentials are loaded, or found missing."""
        self._loading = False
        self._loaded_at = 0.0
        self._load()

    def sign(self, request: RequestHead, body: Sequence[bytes], done: Signed) -> None:
        """See `signing.Signer`."""

        def hashed(digest: str) -> None:
            self._with_credentials(lambda: done(self._signature(request, digest)))

        if sum(map(len, body)) <= HASHED_AT_ONCE:
            hashed(_digest(body))
        else:
            self._beside(lambda: _digest(body), hashed)

    def _with_credentials(self, go_on: Callable[[], None]) -> None:
        if self._credentials is None or self._source.ends_within(LAST_MINUTE):
            self._waiting.append(go_on)
            self._load()
            return
        if self._source.ends_within(RENEWAL) and self._clock() - self._loaded_at >= RETRY:
            self._load()
        go_on()

    def _load(self) -> None:
        if self._loading:
            return
        self._loading = True
        self._loaded_at = self._clock()
        self._beside(self._try_to_load, self._on_loaded)

    def _try_to_load(self) -> Credentials | None:
        try:
            return self._source.load()
        except Exception:  # botocore's exceptions have no common base: an unreadable file, a failed program
            return None

    def _on_loaded(self, credentials: Credentials | None) -> None:
        self._loading = False
        if credentials is not None or self._source.ends_within(LAST_MINUTE):
            self._credentials = credentials  # valid ones survive a failed renewal
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()

    def _beside(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        def run() -> None:
            result = work()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(then, result)

        self._background(run)

    def _signature(self, request: RequestHead, digest: str) -> Headers | RelayError:
        if self._credentials is None:
            return NO_CREDENTIALS
        return sign(request, digest, self._credentials, self._region)


def sign(request: RequestHead, digest: str, credentials: Credentials, region: str) -> Headers:
    """The fields that sign `request`, whose body has the SHA-256 `digest` in hexadecimal digits."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    signed: dict[str, str] = {}
    for field, value in request.headers:
        if field in (b"host", b"content-type") or _SIGNED_TOO.match(field):
            name, text = field.decode("ascii"), value.decode("latin-1")
            signed[name] = f"{signed[name]},{text}" if name in signed else text
    signed["x-amz-content-sha256"] = digest
    url = f"https://{signed['host']}{_canonical(request.target.decode('ascii'))}"
    made = AWSRequest(method=request.method.decode("ascii"), url=url, headers=signed)
    SigV4Auth(credentials, SERVICE, region).add_auth(made)
    return [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in made.headers.items()
        if name.lower() not in signed or name == "x-amz-content-sha256"
    ]


def _canonical(target: str) -> str:
    """`target` with its query encoded as in the signature, whatever its form."""
    path, question, query = target.partition("?")
    if not question:
        return target
    pairs = [parameter.partition("=") for parameter in query.split("&") if parameter]
    return f"{path}?" + "&".join(f"{_encoded(name)}={_encoded(value)}" for name, _, value in pairs)


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="-_.~")


def _digest(body: Sequence[bytes]) -> str:
    total = sha256()
    for data in body:
        total.update(data)
    return total.hexdigest()


def aws_signer(host: str, clock: Clock) -> AwsSigner:
    """A signer for the provider at `host`. Raises SigningUnavailable."""
    try:
        import botocore.auth
        import botocore.awsrequest
        import botocore.session
    except ImportError:
        raise SigningUnavailable(
            "requests are signed with botocore, which is not installed: pip install botocore. "
            "With Amazon Bedrock API keys nothing is signed: give one as api_key, or set auth to 'bearer' if clients "
            "send theirs"
        ) from None
    try:
        session = botocore.session.Session()
        region = region_of(host) or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except Exception as error:  # a profile that does not exist, an unreadable file
        raise SigningUnavailable(f"AWS's own configuration can't be used: {error}") from None
    if not region:
        raise SigningUnavailable("expected a host name with a region in it, or AWS_REGION")
    return AwsSigner(CredentialSource(session), region, clock)
