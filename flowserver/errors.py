"""Who caused an error, what the client is told, and how an exchange ended.

Errors are values here, not exceptions: refusing a request or losing a provider is routine on a relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

import orjson


class Party(Enum):
    """Who has to act on an error."""

    CLIENT = "invalid_request_error"
    UPSTREAM = "upstream_error"
    RELAY = "relay_error"


class EndReason(StrEnum):
    """Why an exchange ended: a label in the metrics and a field of the access log."""

    COMPLETE = "complete"
    BUDGET = "budget"
    QUOTA = "quota"
    LIMITED = "limited"
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"
    CLIENT_ERROR = "client_error"
    BODY_TIMEOUT = "body_timeout"
    REFUSED = "refused"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    """Of an attempt only: the request moved to another provider."""
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    UPSTREAM_FAILED = "upstream_failed"
    RELAY_STOPPED = "relay_stopped"
    """The relay ended before the answer did: at the end of the drain time, or at a second signal."""
    ENDED_BY_OPERATOR = "ended_by_operator"
    """Somebody with the admin token, or at the control socket, ended it."""
    MEMORY = "memory"
    """Ended to free memory."""


@dataclass(frozen=True, slots=True)
class RelayError:
    """One refused or failed request.

    `not_processed`: the provider provably did not begin with the request, so it may be sent again.

    `status` is the HTTP status of the answer, `code` a short stable word for programs, `message` tells people what
    happened and what to do, `retry_after` is in seconds (None: the header is not sent).
    """

    status: int
    code: str
    message: str
    party: Party
    end: EndReason
    retry_after: int | None = None
    not_processed: bool = False

    def body(self) -> bytes:
        """The error as OpenAI's error JSON, which every client library of the field can read."""
        return orjson.dumps(
            {"error": {"message": self.message, "type": self.party.value, "code": self.code, "param": None}}
        )


def bad_request(message: str, *, status: int = 400, code: str = "bad_request") -> RelayError:
    """An error that the client caused."""
    return RelayError(status, code, message, Party.CLIENT, EndReason.CLIENT_ERROR)


def upstream_error(
    code: str, message: str, end: EndReason, *, status: int = 502, not_processed: bool = False
) -> RelayError:
    """The provider could not be used, or broke off."""
    return RelayError(status, code, message, Party.UPSTREAM, end, not_processed=not_processed)


def body_too_large(limit: int) -> RelayError:
    """The request body exceeds `limit` bytes."""
    return bad_request(
        f"The request body exceeds this relay's limit of {limit} bytes (FLOW_MAX_BODY).",
        status=413,
        code="body_too_large",
    )


TOO_MANY_CONNECTIONS = RelayError(
    503,
    "too_many_connections",
    "This relay is at its limit of connections. Try again shortly, or raise FLOW_MAX_CONNECTIONS.",
    Party.RELAY,
    EndReason.REFUSED,
    retry_after=1,
)
TOO_MANY_OF_CLIENT: Final = RelayError(
    429,
    "too_many_connections_of_client",
    "Your address has reached its limit of open connections (FLOW_MAX_CONNECTIONS_PER_CLIENT). Try again when one of "
    "them has ended.",
    Party.CLIENT,
    EndReason.REFUSED,
    retry_after=1,
)
OVERLOADED = RelayError(
    503,
    "overloaded",
    "This relay is short of memory. Send the request again after the seconds in retry-after.",
    Party.RELAY,
    EndReason.REFUSED,
    retry_after=1,
)
OUT_OF_MEMORY = RelayError(
    503,
    "overloaded",
    "This relay is out of memory, and this request held more of it than others. Try again shortly; if the request's "
    "body is the cause, raise FLOW_MEMORY.",
    Party.RELAY,
    EndReason.MEMORY,
    retry_after=1,
)
FAULT = RelayError(
    500,
    "relay_fault",
    "This relay failed to send the request to a provider. Its log says why; please report it.",
    Party.RELAY,
    EndReason.REFUSED,
)
UNREADABLE = RelayError(
    429,
    "insufficient_quota",
    "The quota is used up. The answer could not be read, so it was cut here.",
    Party.CLIENT,
    EndReason.QUOTA,
)
DRAINED = RelayError(
    503,
    "draining",
    "This relay shut down before the answer was complete. Try again: another relay should answer.",
    Party.RELAY,
    EndReason.RELAY_STOPPED,
    retry_after=1,
)
ENDED_BY_OPERATOR = RelayError(
    403,  # client libraries retry after 429 and 5xx, and the request would run again
    "ended_by_operator",
    "The operator of this relay ended this request.",
    Party.RELAY,
    EndReason.ENDED_BY_OPERATOR,
)
NO_WEBSOCKET: Final = RelayError(
    426,
    "websocket_not_allowed",
    "This route does not allow WebSockets. Use HTTP requests, or set `websocket` on the route (FLOW_WEBSOCKET).",
    Party.CLIENT,
    EndReason.REFUSED,
)
LOOP: Final = RelayError(
    508,
    "loop_detected",
    "This request has passed through this relay before. Check that FLOW_UPSTREAM does not lead back to the relay.",
    Party.RELAY,
    EndReason.REFUSED,
)
