"""Wire formats of LLM APIs: how to count the tokens of an answer that passes, and how to end it early."""

from __future__ import annotations

from functools import lru_cache

from .anthropic import ANTHROPIC
from .base import Format
from .bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE
from .cohere import COHERE
from .gemini import GEMINI
from .ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from .openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS
from .openai_responses import OPENAI_RESPONSES

_ALL: tuple[Format, ...] = (
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_RESPONSES,
    ANTHROPIC,
    GEMINI,
    COHERE,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    BEDROCK_CONVERSE,
    BEDROCK_INVOKE,
)

FORMATS: dict[str, Format] = {known.name: known for known in _ALL}
"""By name."""


@lru_cache(128)
def recognise(target: str) -> Format | None:
    """The format of requests to `target`, a path and query; None: not one that is counted."""
    return next((known for known in FORMATS.values() if known.serves(target)), None)
