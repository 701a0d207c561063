"""The interfaces of a wire format, and the data that it reads from requests and answers. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from ..errors import RelayError
from ..json_text.members import Reads
from .byte_classes import ByteClasses
from .event_template import EventTemplate
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
    """How an API takes keys, and all targets of that API, including those that generate nothing."""

    auth: Auth
    targets: re.Pattern[str]
    """Searched for in the path and query, decoded and in lower case."""


@dataclass(slots=True, init=False)
class Usage:
    """Tokens as the provider reports them; None: not reported (yet)."""

    input: int | None
    """All tokens of the prompt, including those read from or written to a cache, even if the provider reports them
    separately (Anthropic, Bedrock), and those of its own tools and other models it called, if reported."""
    output: int | None
    """Including reasoning, even if the provider leaves it out of its own sum (xAI, Gemini)."""
    cached: int | None
    """Input tokens read from the provider's cache."""
    cache_written: int | None
    """Input tokens written to it."""
    reasoning: int | None
    """The part of `output` spent on reasoning, shown to the client or not."""

    def __init__(
        self,
        input: int | None = None,
        output: int | None = None,
        cached: int | None = None,
        cache_written: int | None = None,
        reasoning: int | None = None,
    ) -> None:
        self.input = input
        self.output = output
        self.cached = cached
        self.cache_written = cache_written
        self.reasoning = reasoning


@dataclass(slots=True, init=False, unsafe_hash=True)
class RequestParams:
    """The parameters of a request that matter to the relay; not to be modified. None: not in the request."""

    model: str | None
    stream: bool
    max_tokens: int | None
    choices: int
    """Answers to one request, each of up to `max_tokens`."""
    answers: int
    """`choices`, plus answers that are generated but not shown (`best_of`)."""
    user: str | None
    has_fallbacks: bool
    """Whether it names further models, which its provider may use in place of `model`."""
    usage: bool
    """Whether the client gets the provider's usage report: always in most formats, on request in some."""

    # A compiled `__init__` takes a tenth of the time of one that `dataclass` or `NamedTuple` writes.
    def __init__(  # noqa: PLR0913
        self,
        model: str | None = None,
        stream: bool = False,
        max_tokens: int | None = None,
        *,
        choices: int = 1,
        answers: int = 1,
        user: str | None = None,
        has_fallbacks: bool = False,
        usage: bool = True,
    ) -> None:
        self.model = model
        self.stream = stream
        self.max_tokens = max_tokens
        self.choices = choices
        self.answers = answers
        self.user = user
        self.has_fallbacks = has_fallbacks
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Quirks:
    """A provider's profile: how it deviates from a format that it shares with others."""

    name: str
    hosts: tuple[str, ...] = ()
    """Its host names, with shell wildcards."""
    usage_option: bool = True
    """OpenAI chat: it takes `stream_options.include_usage`."""
    max_tokens: str = "max_tokens"
    """OpenAI chat: the field to limit the answer with if the request has none."""
    reasoning_apart: bool = False
    """Whether its output tokens leave out reasoning."""
    auth: Auth | None = None
    """How it takes its key; None: decided by the path or by the client's own field."""
    auth_by_path: bool = False
    """Whether a path that belongs to one API takes precedence over `auth`, because the host serves several APIs."""


class Meter(Protocol):
    """Reads one answer as it passes. No method raises on bad input; malformed events are ignored.

    A cut may withhold the last event that was read, so `ending` must be right with and without it. That holds as long
    as only events without content open and close blocks, because these are never withheld.
    """

    has_text: bool
    """Whether answers of this kind have content that can be counted, unlike numbers and pictures."""
    content_bytes: int
    """UTF-8 bytes of generated content so far, as the client sees it: text, visible reasoning, tool calls' names and
    arguments. Never padding, ids or framing."""
    content_events: int
    """Events with content so far."""
    reasoning_bytes: int
    """The part of `content_bytes` that is reasoning."""
    content: ByteClasses
    """The classes of these bytes, to estimate tokens from."""
    calls: int
    """Tool calls so far, including tools that the provider runs itself."""
    citations: int
    """Sources and searches named so far, which are billed in addition to the text."""
    other_output: bool
    """Whether there was output that is not counted as content: sound, a picture, hidden reasoning."""
    usage: Usage
    """The provider's report so far; reports replace each other or add up, depending on the provider."""
    answer_id: str | None
    """The answer's id if the answer can be fetched by it later; None: it can't, or the id is not known."""
    running: bool
    """Whether `usage.output` is a running count that came with the content, exact at this point of the stream."""
    model: str | None
    """As the answer names it."""
    finish: str | None
    """The reason why the answer ended, as the provider names it."""
    failed: str | None
    """An error inside an answer of status 200, shortened."""
    finished: bool
    """Whether the format's last event has arrived, so that only the end may follow."""
    unread: int
    """Bytes that could not be read: malformed events, and tools' names that are too long."""

    @property
    def is_final(self) -> bool:
        """Whether `usage` is the provider's final report on everything read, not only on its beginning."""

    @property
    def template(self) -> EventTemplate | None:
        """Events that fit it have only content, and may be counted with `count_template`; None: not known, or the next
        event may have something else."""

    def count_template(self, events: int, content_bytes: int) -> None:
        """Count `events` events that fit `template`, with `content_bytes` bytes in total, already in
        `content.pending`."""

    def read_head(self, fields: Mapping[bytes, bytes]) -> None:
        """Read token counts in the head of the answer, if it has any. Called first."""

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        """One event of a stream: its name (b"" where it has none) and its data. False: the client must not get this
        event, for example a usage report that only the relay asked for. Bytes: sent in place of `data`, without such a
        report."""

    def read_whole(self, body: bytes) -> bool:
        """Read an answer that is not a stream. False: it is malformed."""

    def ending(self, prompt: int, output: int) -> bytes:
        """The events that end the stream here as if the provider had reached the token limit, after `output` tokens on
        a prompt of `prompt`: the format's own client libraries accept it as a normal "length" ending."""

    def failure(self, error: RelayError) -> bytes:
        """The format's error event for mid-stream; b"" if it has none. No clean end follows."""


class Format(Protocol):
    """The wire format of one API's requests and answers. Stateless; there is one instance of each.

    A `target` is a request target with its query. A `body` has the members of a request that `reads` names.
    """

    name: str
    """Its key in `FORMATS`."""
    heartbeat: bytes | None
    """Bytes of a heartbeat between two events of a stream; None: nothing is safe to send."""
    reads: Reads
    """The members of a request's body that are read."""
    takes_forms: bool
    """Whether requests may be forms (multipart/form-data), with the same names."""
    streams_lines: bool
    """Whether streams are JSON lines, regardless of their content-type."""
    key_paths: KeyPaths | None
    """How the API takes keys; None: depends on the provider or the client."""
    limit_fields: LimitFields
    """The fields of answers that report rate limits."""
    account_fields: frozenset[bytes]
    """Fields of answers that identify the account at the provider, in addition to those recognised by their names."""

    def serves(self, target: str) -> bool:
        """Whether requests to `target` are in this format."""

    def stores(self, target: str) -> bool:
        """Whether a GET of `target` fetches an answer in this format by its id."""

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        """The parameters of a request."""

    def path_model(self, target: str) -> str | None:
        """The model that the path names, decoded; None: this API names it in the body only, or the path has none."""

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """Limit the answer to `most` tokens, all its choices together. Returns whether `body` was changed: not if the
        request has a lower limit, or can't be changed."""

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        """Ask for a usage report if the format only gives one on request. Returns whether `body` was changed."""

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        """A meter for one answer. `cuttable`: `ending` may be called, so the meter keeps the data for it."""

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer, in the format's own JSON."""
