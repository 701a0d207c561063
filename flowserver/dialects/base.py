"""The interfaces of a wire format, and the data that it reads from requests and answers. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from ..errors import RelayError
from ..json_text.members import Reads
from .byte_classes import ByteClasses
from .limit_fields import LimitFields


class Auth(StrEnum):
    """How a provider takes its key."""

    BEARER = "bearer"
    X_API_KEY = "x-api-key"
    API_KEY = "api-key"
    X_GOOG_API_KEY = "x-goog-api-key"
    AWS_SIGV4 = "aws-sigv4"
    """No key: the request is signed."""


class KeyPaths(NamedTuple):
    """How an API takes keys, and the targets that are its own, those that generate nothing among them."""

    auth: Auth
    targets: re.Pattern[str]
    """Searched for in a path and query, decoded and in lower case."""


@dataclass(slots=True)
class Usage:
    """Tokens as the provider reports them; None: not reported (yet)."""

    input: int | None = None
    """All tokens of the prompt: those read from or written to a cache too, also where the provider counts them apart
    (Anthropic, Bedrock), and those of its own tools and of other models that it called, as far as it reports them."""
    output: int | None = None
    """With the reasoning, also where the provider leaves it out of its own sum (xAI, Gemini)."""
    cached: int | None = None
    """Input tokens read from the provider's cache."""
    cache_written: int | None = None
    """Input tokens written to it."""
    reasoning: int | None = None
    """Of `output`, the ones for reasoning, shown to the client or not."""


class RequestParams(NamedTuple):
    """The parameters of a request that matter to the relay. None: the request does not have it."""

    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    choices: int = 1
    """Answers to one request, each of up to `max_tokens`."""
    answers: int = 1
    """`choices` and the answers that are generated and not shown (`best_of`)."""
    user: str | None = None
    has_fallbacks: bool = False
    """Whether it names further models, which its provider may use in place of `model`."""
    usage: bool = True
    """Whether the client gets the provider's usage report: in most formats always, in some on demand."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """A provider's profile: how it deviates from a format that it shares with others."""

    name: str
    hosts: tuple[str, ...] = ()
    """Its host names, with shell wildcards."""
    usage_option: bool = True
    """OpenAI chat: it takes `stream_options.include_usage`."""
    max_tokens: str = "max_tokens"
    """OpenAI chat: the field that bounds the answer, for a request that has none."""
    reasoning_apart: bool = False
    """Its output tokens leave the reasoning out."""
    auth: Auth | None = None
    """How it takes its key; None: as the path or the client shows."""
    auth_by_path: bool = False
    """Whether a path that belongs to one API decides before `auth` does: the host has more than one API."""


class Template(Protocol):
    """What most events of a stream look like on the wire, all but their text and padding."""

    head: bytes
    """What stands before the text."""
    read: Callable[[bytes, int], re.Match[bytes] | None]
    """Matches the text, as its first group, and all behind it. UTF-8 is the caller's to check."""
    reasoning: bool
    """Whether the text is reasoning."""

    def text_of(self, data: bytes) -> bytes:
        """The text in `data`, one whole event; b"" if there is none, or `data` is no such event."""

    def in_chunk(self) -> Template:
        """The same with the line end that closes a chunk."""


class Meter(Protocol):
    """Reads one answer while it passes. No method raises on bad input; malformed events are ignored.

    A cut may withhold the last event that was read, so `ending` must be right with it and without it. It is as long as
    only events without content open and close blocks, because these are never withheld.
    """

    has_text: bool
    """Whether answers of this kind have content that can be counted, unlike numbers and pictures."""
    content_bytes: int
    """UTF-8 bytes of generated content so far, as the client sees it: text, visible reasoning, tool calls' names and
    arguments. Never padding, ids or framing."""
    content_events: int
    """Events with content so far."""
    reasoning_bytes: int
    """Of `content_bytes`, the ones of reasoning."""
    content: ByteClasses
    """The classes of these bytes, to estimate tokens from."""
    calls: int
    """Calls of tools so far, also of those that the provider runs itself."""
    citations: int
    """Sources and searches named so far, which are billed in addition to the text."""
    other_output: bool
    """Whether the model has shown output that is no content to be counted: sound, a picture, hidden reasoning."""
    usage: Usage
    """The provider's report so far: replaced or added up as this provider means it."""
    answer_id: str | None
    """The answer's own id, where it can be fetched by it later; None: it can't, or the id is not known."""
    running: bool
    """Whether `usage.output` is a running count that came with the content, exact at this point of the stream."""
    model: str | None
    """As the answer names it."""
    finish: str | None
    """The reason why the answer ended, as the provider names it."""
    failed: str | None
    """An error inside an answer of status 200, shortened."""
    finished: bool
    """Whether nothing but an end may follow: the format's last event came."""
    unread: int
    """Bytes that could not be read: malformed events, and tools' names that are too long."""

    @property
    def is_final(self) -> bool:
        """Whether `usage` is the provider's last report on all that was read, not one of its beginning."""

    @property
    def template(self) -> Template | None:
        """Events that fit it have content and nothing else, and may be counted by `count_template`; None: not known, or
        the next one may say something else."""

    def count_template(self, events: int, content_bytes: int) -> None:
        """Count `events` events that fit `template`, with `content_bytes` bytes in all, which are in `content.pending`
        already."""

    def read_head(self, fields: Mapping[bytes, bytes]) -> None:
        """Read token counts in the head of the answer, if it has any. Called first."""

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        """One event of a stream: its name (b"" where it has none) and its data. False: an event that the client did not
        ask for and must not get, such as the usage report that the relay has asked for. Bytes: what it gets in place of
        `data`, which has such a report among other things."""

    def read_whole(self, body: bytes) -> bool:
        """Read an answer that is no stream. False: it is malformed."""

    def ending(self, prompt: int, output: int) -> bytes:
        """The events that end the stream here as if the provider had reached the token limit, after `output` tokens on
        a prompt of `prompt`: what the format's own client libraries take for a normal "length" ending."""

    def failure(self, error: RelayError) -> bytes:
        """The format's error event for mid-stream; b"" where it has none. No clean end follows."""


class Format(Protocol):
    """The wire format of one API's requests and answers. Stateless; there is one instance of each.

    A `target` is a request target with its query. A `body` has the members of a request that `reads` names.
    """

    name: str
    """Its key in `FORMATS`."""
    heartbeat: bytes | None
    """Bytes that may be sent between two events of a stream as a sign of life; None: nothing is safe."""
    reads: Reads
    """The members of a request's body that are read."""
    takes_forms: bool
    """Whether requests may be forms (multipart/form-data), with the same names."""
    streams_lines: bool
    """Whether streams are JSON lines, whatever their head calls them."""
    key_paths: KeyPaths | None
    """How the API takes keys; None: only the provider or the client shows it."""
    limit_fields: LimitFields
    """The fields of answers that report rate limits."""
    account_fields: frozenset[bytes]
    """Fields of answers that identify the account at the provider, in addition to those that say so in their names."""

    def serves(self, target: str) -> bool:
        """Whether requests to `target` are in this format."""

    def stores(self, target: str) -> bool:
        """Whether a GET of `target` fetches an answer in this format by its id."""

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        """The parameters of a request."""

    def path_model(self, target: str) -> str | None:
        """The model that the path names, decoded; None: this API has it in the body only, or the path names none."""

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """Have the answer bounded to `most` tokens, all its choices together. Whether `body` was changed: not when the
        request has a smaller bound itself, or can't be changed."""

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        """Ask for a usage report where the format gives one on demand only. Whether `body` was changed."""

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        """A meter for one answer. `cuttable`: `ending` may be called, so the meter keeps the data for it."""

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer, in the format's own JSON."""
