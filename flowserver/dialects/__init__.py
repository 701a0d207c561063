"""Wire formats of LLM APIs: how to count the tokens of an answer as it passes, and how to end it early."""

from __future__ import annotations

from .anthropic import ANTHROPIC
from .bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE
from .cohere import COHERE
from .gemini import GEMINI
from .ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from .openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS
from .openai_media import OPENAI_IMAGES, OPENAI_TRANSCRIPTIONS
from .openai_responses import OPENAI_RESPONSES
from .table import FormatTable

TABLE = FormatTable(
    (
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
)
"""All known formats: a new one is a file and a line here."""

FORMATS = TABLE.formats
recognise = TABLE.recognise
recognise_stored = TABLE.recognise_stored
path_model = TABLE.path_model
