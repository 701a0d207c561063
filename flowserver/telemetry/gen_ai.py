"""Names of operations and providers in OpenTelemetry's conventions for generative AI (semantic-conventions-genai
0.1.0)."""

from __future__ import annotations

OPERATIONS = {
    "openai-chat": "chat",
    "openai-completions": "text_completion",
    "openai-embeddings": "embeddings",
    "openai-responses": "chat",
    "openai-realtime": "chat",
    "openai-transcriptions": "generate_content",
    "openai-images": "generate_content",
    "anthropic-messages": "chat",
    "gemini": "generate_content",
    "cohere": "chat",
    "ollama-chat": "chat",
    "ollama-generate": "text_completion",
    "bedrock-converse": "chat",
    "bedrock-invoke": "chat",
}
"""By dialect, for requests that generate something."""
FETCH = "fetch_response"
"""The operation of requests that fetch an answer by its id."""

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "moonshot": "moonshot_ai",
}
"""By profile, if the conventions' name differs from the profile's."""
_OF_DIALECTS = {
    "anthropic-messages": "anthropic",
    "gemini": "gcp.gemini",
    "cohere": "cohere",
    "ollama-chat": "ollama",
    "ollama-generate": "ollama",
    "bedrock-converse": "aws.bedrock",
    "bedrock-invoke": "aws.bedrock",
}


def provider_name(profile: str, dialect: str) -> str:
    """The name of a provider with this profile; for a generic profile, by its dialect."""
    if profile == "openai-compatible":
        return _OF_DIALECTS.get(dialect, "openai")
    return _PROVIDERS.get(profile, profile)
