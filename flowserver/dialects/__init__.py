"""Wire formats of LLM APIs: how to count the tokens of an answer that passes, and how to end it early."""

from __future__ import annotations

from .anthropic import ANTHROPIC
from .api_paths import cached, deployment_of
from .base import Format
from .bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE
from .cohere import COHERE
from .gemini import GEMINI
from .ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from .openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS
from .openai_media import OPENAI_IMAGES, OPENAI_TRANSCRIPTIONS
from .openai_responses import OPENAI_RESPONSES, is_stored_response

_ALL: tuple[Format, ...] = (
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_RESPONSES,
    OPENAI_TRANSCRIPTIONS,
    OPENAI_IMAGES,
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


def recognise(target: str) -> Format | None:
    """The format of requests to `target`, a path and query; None: not one that is counted."""
    return _recognise(target.partition("?")[0])


def recognise_stored(target: str) -> Format | None:
    """The format of an answer that is fetched by its id, and may not have been paid for yet."""
    return OPENAI_RESPONSES if is_stored_response(target) else None


def path_model(target: str) -> str | None:
    """The model that the path of any request names, counted or not; None: it names none."""
    known = recognise(target)
    return deployment_of(target) if known is None else known.path_model(target)


@cached
def _recognise(path: str) -> Format | None:
    return next((known for known in _ALL if known.serves(path)), None)
