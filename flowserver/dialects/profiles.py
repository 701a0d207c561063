"""Providers' profiles, and the host names that they are detected from. No I/O."""

from __future__ import annotations

from fnmatch import fnmatchcase

from .base import Auth, Quirks

GENERIC = Quirks("openai-compatible")
"""The profile of unknown hosts: vLLM, SGLang, llama.cpp and most others behave like that."""

_BEDROCK = tuple(
    f"{before}bedrock-runtime{fips}.*.{domain}"
    for before in ("", "*.")
    for fips in ("", "-fips")
    for domain in ("amazonaws.com", "amazonaws.com.cn", "api.aws")
)
"""Includes its endpoints in private networks."""

_KNOWN = (
    Quirks(
        "openai",
        ("api.openai.com", "*.api.openai.com"),
        max_tokens="max_completion_tokens",
        auth=Auth.BEARER,
    ),
    Quirks(
        "azure",
        ("*.openai.azure.com", "*.services.ai.azure.com", "*.cognitiveservices.azure.com"),
        max_tokens="max_completion_tokens",
        auth=Auth.API_KEY,
    ),
    # Both have OpenAI's API too, which takes Bearer.
    Quirks("anthropic", ("api.anthropic.com",), auth=Auth.X_API_KEY, auth_by_path=True),
    Quirks("google", ("generativelanguage.googleapis.com",), auth=Auth.X_GOOG_API_KEY, auth_by_path=True),
    Quirks(
        "vertex",
        ("aiplatform.googleapis.com", "*-aiplatform.googleapis.com", "aiplatform.*.rep.googleapis.com"),
        auth=Auth.BEARER,
    ),
    Quirks("bedrock", _BEDROCK, auth=Auth.AWS_SIGV4),
    # Rejects stream_options (422); always reports usage, with the last event of each stream.
    Quirks("mistral", ("api.mistral.ai", "codestral.mistral.ai"), usage_option=False, auth=Auth.BEARER),
    # Always reports usage, as a running count with each event.
    Quirks("perplexity", ("api.perplexity.ai",), usage_option=False, auth=Auth.BEARER),
    # Chat completions only; in its /responses the sum is complete.
    Quirks(
        "xai",
        ("api.x.ai", "*.api.x.ai"),
        max_tokens="max_completion_tokens",
        reasoning_apart=True,
        auth=Auth.BEARER,
    ),
    Quirks("groq", ("api.groq.com",), max_tokens="max_completion_tokens", auth=Auth.BEARER),
    Quirks("cerebras", ("api.cerebras.ai",), max_tokens="max_completion_tokens", auth=Auth.BEARER),
    Quirks("vllm", auth=Auth.BEARER),
    Quirks("ollama", ("ollama.com",), auth=Auth.BEARER),
    Quirks("cohere", ("api.cohere.com", "api.cohere.ai"), auth=Auth.BEARER),
    Quirks("deepseek", ("api.deepseek.com",), auth=Auth.BEARER),
    Quirks("openrouter", ("openrouter.ai",), auth=Auth.BEARER),
    Quirks("together", ("api.together.xyz", "api.together.ai"), auth=Auth.BEARER),
    Quirks("fireworks", ("api.fireworks.ai",), auth=Auth.BEARER),
    Quirks("deepinfra", ("api.deepinfra.com",), auth=Auth.BEARER),
    Quirks("moonshot", ("api.moonshot.ai", "api.moonshot.cn"), auth=Auth.BEARER),
    Quirks("zai", ("api.z.ai", "open.bigmodel.cn"), auth=Auth.BEARER),
    # A gateway to many providers, each with its own field.
    Quirks("cloudflare", ("api.cloudflare.com", "gateway.ai.cloudflare.com")),
    Quirks("vercel", ("ai-gateway.vercel.sh",), auth=Auth.BEARER),
    Quirks("snowflake", ("*.snowflakecomputing.com",), auth=Auth.BEARER),
)

QUIRKS = {quirks.name: quirks for quirks in (GENERIC, *_KNOWN)}


def quirks_for(name: str | None, host: str) -> Quirks:
    """The entry called `name`, which must be in `QUIRKS`, or (None) the one for the host name `host`."""
    if name is not None:
        return QUIRKS[name]
    host = host.lower().removesuffix(".")
    return next((quirks for quirks in _KNOWN if any(fnmatchcase(host, known) for known in quirks.hosts)), GENERIC)
