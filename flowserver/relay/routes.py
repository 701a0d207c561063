"""Which provider serves a request, and under which target."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Url
from .ports import Connector


@dataclass(frozen=True, slots=True)
class Route:
    """A provider. `api_key` None: the client's own credentials pass."""

    url: Url
    connector: Connector
    api_key: bytes | None


def join_target(base: str, target: bytes) -> bytes:
    """The request target under the base URL's path.

    Client libraries and providers both like to have the version in their base URL, so an overlap counts once:
    `/openai/v1` and `/v1/chat/completions` give `/openai/v1/chat/completions`.
    """
    if not base:
        return target
    prefix = base.encode("ascii").split(b"/")[1:]
    path, question, query = target.partition(b"?")
    segments = path.split(b"/")[1:]
    for overlap in range(min(len(prefix), len(segments)), 0, -1):
        if prefix[-overlap:] == segments[:overlap]:
            segments = segments[overlap:]
            break
    return b"/" + b"/".join([*prefix, *segments]) + question + query
