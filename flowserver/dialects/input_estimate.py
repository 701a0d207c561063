"""Estimates how many tokens a request has from the bytes of its JSON. No tokenizer, no tree, no I/O.

The texts of messages and the descriptions of tools are found by the names before them, and counted by the classes of
their bytes. Roles, schemas and tools are counted too: providers wrap each in markup. What a family of models adds for
them was fitted on recorded requests (`python -m bench.estimates`). Files, images and other long texts without blanks
count as one attachment each, since their bytes say nothing.

Takes 10 to 20 ns a byte for the first 16 KB and about 2 ns for what follows, of which one block in sixteen is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .byte_classes import ByteClasses

BLOCK: Final = 8192
"""Bytes that are read together. Blocks begin at multiples of it, however the body was cut."""
_WHOLE: Final = 2
_ONE_IN: Final = 16
"""The first `_WHOLE` blocks are read; of the others one in `_ONE_IN`, which stands for all."""

ATTACHED: Final = 1000
"""Tokens of an attachment."""
LONG: Final = 2000
"""Bytes without a blank from which on a text is one."""
_WINDOW: Final = LONG // 2
"""A text of `LONG` bytes without blanks fills at least one window of this size."""
_PACKED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_:;,.%-"
"""The bytes of attachments: base64, and the beginning of a data URL."""
_PACKED_TEXT: Final = re.compile(rb'"[A-Za-z0-9+/=_:;,.%%-]{%d,}+' % LONG)

_STRING = rb'([^"\\]*+(?:\\.[^"\\]*+)*+)'
_TEXT_NAMES = (
    rb"content|text|prompt|input|output|system|instructions|description|arguments|thinking|title|preamble"
    rb"|systemInstruction"
)
_TEXTS: Final = re.compile(rb'"(?:%b)"\s*:\s*\[?\s*"%b(?:"|\Z)' % (_TEXT_NAMES, _STRING), re.DOTALL)
_REST_OF_TEXT: Final = re.compile(rb'%b(?:"\s*[]},]|\Z)' % _STRING, re.DOTALL)
"""At the beginning of a block, where a text goes on from the one before: what ends it is no quote before a name."""
_SCHEMA_TYPES: Final = re.compile(rb'"type"\s*:\s*"(?:string|integer|number|boolean|array|object)"', re.IGNORECASE)
_TOOL_SCHEMAS: Final = (
    b'"parameters":',
    b'"input_schema":',
    b'"inputSchema":',
    b'"parametersJsonSchema":',
    b'"parameters_json_schema":',
    b'"parameter_definitions":',
)
_MESSAGES: Final = (b'"role"', b'"function_call')

_LEAST_BARE = 1000
"""Bytes of a block that may be one without known names."""
_TYPES_APART: Final = 200
"""Bytes for a schema type, where there are schemas; in these little is text."""
_BLANKS_APART = 16
"""Bytes for a blank, where there is text in ASCII; keys, ids and ciphertexts have fewer."""


@dataclass(frozen=True, slots=True)
class InputFamily:
    """Constants of a family of models, in tokens. Schemas are those of tools and of structured answers."""

    factor: float
    """Per token of a usual tokenizer."""
    base: float
    """For every request, in addition to its texts."""
    schemas: float
    """For a request with any schema."""
    type: float
    """For each type in a schema."""


INPUT_FAMILIES: Final = {
    "claude": InputFamily(factor=1.18, base=7.2, schemas=380.0, type=6.0),
    "gemini": InputFamily(factor=1.04, base=-0.2, schemas=5.0, type=4.5),
    "cohere": InputFamily(factor=1.0, base=525.0, schemas=374.0, type=5.0),
    "mistral": InputFamily(factor=1.05, base=3.0, schemas=45.0, type=4.0),
    "gpt": InputFamily(factor=0.99, base=5.5, schemas=22.4, type=4.7),
    "grok": InputFamily(factor=0.99, base=195.0, schemas=25.2, type=5.0),
    "other": InputFamily(factor=1.01, base=8.0, schemas=45.0, type=5.7),
}


@dataclass(frozen=True, slots=True)
class InputMarkup:
    """Constants that all families share, in tokens."""

    message: float
    """For each message after the first."""
    tool: float
    """For each tool after the first."""


INPUT_MARKUP: Final = InputMarkup(message=3.5, tool=6.6)

_GPT: Final = re.compile(r"gpt-\d|(?:^|/)o\d|davinci|babbage|text-embedding")


def input_family(format: str, model: str | None) -> str:
    """The key in `INPUT_FAMILIES`. `format` by name; `model` as the request names it."""
    name = (model or "").lower()
    if format == "anthropic-messages" or "claude" in name:
        return "claude"
    if format == "gemini" or "gemini" in name:
        return "gemini"
    if format == "cohere" or name.startswith("command"):
        return "cohere"
    if "stral" in name:  # Mistral, Magistral, Codestral
        return "mistral"
    if "grok" in name:
        return "grok"
    return "gpt" if _GPT.search(name) else "other"


@dataclass(slots=True)
class InputContent:
    """The counts that an estimate is made from, scaled from the blocks that were read to the whole request."""

    text_tokens: float
    """Of a usual tokenizer."""
    messages: float
    types: float
    tools: float
    attachments: int

    def tokens(self, family: str, constants: InputFamily | None = None, markup: InputMarkup = INPUT_MARKUP) -> int:
        """`constants`: of `family`, if not those in `INPUT_FAMILIES`."""
        known = constants or INPUT_FAMILIES[family]
        tokens = known.factor * self.text_tokens + known.base + markup.message * max(0.0, self.messages - 1)
        # Gemini does not bill the schema of an answer.
        if self.tools or (self.types and family != "gemini"):
            tokens += known.schemas + known.type * self.types + markup.tool * max(0.0, self.tools - 1)
        return max(1, round(tokens)) + self.attachments * ATTACHED


class InputEstimate:
    """The estimate of one body that arrives in pieces, however it was cut."""

    __slots__ = (
        "_attachments",
        "_blocks",
        "_is_packed",
        "_looked",
        "_messages",
        "_pending",
        "_size",
        "_tail",
        "_texts",
        "_tools",
        "_types",
    )

    def __init__(self) -> None:
        self._pending = bytearray()
        self._blocks = 0
        self._tail = b""
        """The end of the last block, if it may be the beginning of an attachment."""
        self._is_packed = False
        """Whether the last block ended within one."""
        self._attachments = 0
        self._size = 0
        """Bytes without attachments."""
        self._looked = 0
        """The part of `_size` that was read."""
        self._texts = ByteClasses()
        self._messages = 0
        self._types = 0
        self._tools = 0

    def feed(self, data: bytes) -> None:
        pending = self._pending
        pending += data
        if len(pending) < BLOCK:
            return
        end = len(pending) - len(pending) % BLOCK
        for start in range(0, end, BLOCK):
            self._pass(bytes(pending[start : start + BLOCK]))
        del pending[:end]

    def content(self) -> InputContent:
        """The counts so far. Call it at the end only: it treats the last block as complete."""
        if self._pending:
            rest = bytes(self._pending)
            self._pending.clear()
            self._pass(rest)
        if self._tail:
            self._look(self._tail)
            self._tail = b""
        self._texts.settle()
        scale = self._size / self._looked if self._looked else 1.0
        return InputContent(
            self._texts.tokens * scale,
            self._messages * scale,
            self._types * scale,
            self._tools * scale,
            self._attachments,
        )

    def tokens(self, format: str, model: str | None) -> int:
        """`format` by name; `model` as the request names it."""
        return self.content().tokens(input_family(format, model))

    def _pass(self, block: bytes) -> None:
        self._blocks += 1
        rest = self._without_attachments(self._tail + block)
        if self._blocks <= _WHOLE or self._blocks % _ONE_IN == 0:
            self._look(rest)
        else:
            self._size += len(rest)

    def _without_attachments(self, block: bytes) -> bytes:
        """The part of `block` that can be counted now."""
        self._tail = b""
        if self._is_packed:
            block = block.lstrip(_PACKED)
            if not block:
                return b""
            self._is_packed = False
        body = block.rstrip(_PACKED)
        size = len(block) - len(body)
        if size >= LONG:
            self._attachments += 1
            self._is_packed = True
        elif size:
            self._tail = block[len(body) :]
        if _has_long(body):
            body, found = _PACKED_TEXT.subn(b'"', body)
            self._attachments += found
        return body

    def _look(self, block: bytes) -> None:
        self._size += len(block)
        self._looked += len(block)
        self._messages += sum(map(block.count, _MESSAGES))
        self._tools += sum(map(block.count, _TOOL_SCHEMAS))
        types = len(_SCHEMA_TYPES.findall(block)) if b'"type"' in block.lower() else 0
        self._types += types
        texts = _TEXTS.findall(block)
        if self._blocks > 1 and (rest := _REST_OF_TEXT.match(block)):
            texts.append(rest[1])
        text = b" ".join(texts)
        if 4 * len(text) < len(block) and types * _TYPES_APART < len(block) and _is_bare_text(block):
            text = block
        self._texts.add(_plain(text) + b" ")


def _has_long(block: bytes) -> bool:
    """Whether there may be an attachment in it. Blanks and quotes are found fast in text, so this takes no time."""
    for start in range(0, len(block) - _WINDOW + 1, _WINDOW):
        window = block[start : start + _WINDOW]
        if b" " not in window and b'"' not in window:
            return True
    return False


def _is_bare_text(block: bytes) -> bool:
    """Whether there is much text in it, under names that are not known here or under none: then all of it counts."""
    size = len(block)
    return size >= _LEAST_BARE and (not block.isascii() or block.count(b" ") * _BLANKS_APART >= size)


def _plain(text: bytes) -> bytes:
    """Text roughly without JSON's escapes."""
    if b"\\" not in text:
        return text
    if b"\\u" in text and text.isascii():
        # What is beyond ASCII may be written in ASCII. A pair of surrogates makes two characters.
        text = text.decode("raw_unicode_escape", "replace").encode("utf-8", "surrogatepass")
    return text.replace(b"\\n", b"\n").replace(b'\\"', b'"')
