"""What OpenTelemetry's conventions for generative AI call operations and providers (semantic-conventions-genai 0.1.0,
`gen_ai.operation.name` and `gen_ai.provider.name`). No I/O."""

from __future__ import annotations

from .base import Quirks
from .profiles import GENERIC

CHAT = "chat"
EMBEDDINGS = "embeddings"
_OPERATIONS = {
    "openai-completions": "text_completion",
    "openai-embeddings": EMBEDDINGS,
    "openai-transcriptions": "generate_content",
    "openai-images": "generate_content",
    "gemini": "generate_content",
    "ollama-generate": "text_completion",
    "bedrock-invoke": "text_completion",
}
"""By the names of formats, of those that are no chat."""
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""By the names of profiles, where the two differ. Where the conventions list none, the profile's name is allowed."""


def operation_name(dialect: str) -> str:
    """The name of what a request in this format asks for."""
    return _OPERATIONS.get(dialect, CHAT)


def provider_name(profile: Quirks) -> str:
    """The name of providers with this profile. Unknown hosts are taken for OpenAI's API, as elsewhere: the name tells
    the flavour of the API, and may differ from who serves it."""
    return "openai" if profile is GENERIC else _PROVIDERS.get(profile.name, profile.name)
